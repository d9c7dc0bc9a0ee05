"""The outer optimizer's step on the leaves, under a guard or without one, as arithmetic that traces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Event, Guard
from nestgrad_jax._tree import is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._leaves import clipped


def outer_step(
    spaces: Any,
    rule: Any,
    guard: Guard | None,
    total: Any,
    outer_loss: Array,
    state: Any,
    besides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], Array | None]:
    """(the state's entries that a hyper step changes, what the guard did as an int32; None without a guard).

    besides: gradients of other entries of the state that move with the leaves. The guard judges the total alone.
    """
    held = state["outer_opt_state"]
    slopes = {"hparams": total, **(besides or {})}
    values = {name: state[name] for name in slopes}

    def step(slopes: Any) -> tuple[dict[str, Any], Any]:
        if besides is None:
            moves, after = rule.update(slopes["hparams"], held, values["hparams"])
            moves = {"hparams": moves}
        else:
            moves, after = rule.update(slopes, held, values)
        moved = moved_by(values, moves)
        return {**moved, "hparams": clipped(spaces, moved["hparams"])}, after

    if guard is None:
        moved, after = step(slopes)
        return {**moved, "outer_opt_state": after}, None
    event, scale = _judged(guard, total, outer_loss)
    skipped = event == int(Event.SKIPPED)
    moved, after = step(
        jax.tree.map(lambda h: jnp.where(skipped, jnp.zeros_like(h), h * scale.astype(h.dtype)), slopes)
    )
    return {
        **_unless(skipped, values, moved),
        "outer_opt_state": _unless(skipped, held, after),
        "events": {
            name: count + (event == int(Event[name.upper()])).astype(count.dtype)
            for name, count in state["events"].items()
        },
    }, event


def no_events() -> dict[str, Array]:
    """The counts of a guard that has seen nothing."""
    return {"clipped": jnp.zeros((), jnp.int32), "skipped": jnp.zeros((), jnp.int32)}


def no_event() -> Array:
    """What a traced step without a hypergradient reports."""
    return jnp.full((), int(Event.NONE), jnp.int32)


def as_event(event: Any) -> Any:
    """The event as an Event where it has a value; None is a step without a guard."""
    if event is None:
        return Event.NONE
    return event if is_traced(event) else Event(int(event))


def finite(total: Any, outer_loss: Array) -> Array:
    """Whether the total and the outer loss are."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in [*jax.tree.leaves(total), outer_loss]]).all()


def _judged(guard: Guard, total: Any, outer_loss: Array) -> tuple[Array, Array]:
    """(the event, what to multiply the hypergradient by), as `Guard.judge` has it."""
    size, there = tree_norm(total), finite(total, outer_loss)
    event = jnp.where(there, no_event(), jnp.full((), int(Event.SKIPPED), jnp.int32))
    one = jnp.ones_like(size)
    if guard.max_norm is None:
        return event, one
    most = jnp.asarray(guard.max_norm, size.dtype)
    long = there & (size > most)
    instead = Event.CLIPPED if guard.too_long == "clip" else Event.SKIPPED
    return jnp.where(long, jnp.full((), int(instead), jnp.int32), event), jnp.where(long, most / size, one)


def _unless(skipped: Array, old: Any, new: Any) -> Any:
    """The old entries, bit for bit, where the step is skipped."""
    return jax.tree.map(lambda a, b: jnp.where(skipped, jnp.asarray(a, b.dtype), b), old, new)
