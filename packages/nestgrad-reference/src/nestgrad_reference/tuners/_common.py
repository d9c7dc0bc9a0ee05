"""What the tuners share: leaves and natural values, the chain rule, the training step."""

from __future__ import annotations

import math
from typing import Any

import autograd
import numpy as np

from nestgrad import (
    Event,
    HyperGradient,
    Space,
    Stats,
    Status,
    UnsupportedOptimizer,
    Watch,
    WeightUpdate,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_reference._checks import functional_optimizer, scalar_loss
from nestgrad_reference._space_ops import OPS
from nestgrad_reference._tree import Vector, as_hparams, flatten


def initial_leaves(spaces: Any) -> tuple[Any, Any]:
    """(natural values, unconstrained leaves) at the start; OutOfSpace for a value outside its space."""
    initial = as_hparams(initial_values(spaces))
    require_initial(spaces, initial, lambda value: (float(value.min()), float(value.max())))
    return initial, map_spaces(lambda space, value: np.asarray(space.unconstrained(value, OPS)), spaces, initial)


def natural_values(spaces: Any, leaves: Any) -> Any:
    """The natural values of the leaves."""
    return map_spaces(lambda space, leaf: np.asarray(space.natural(leaf, OPS)), spaces, leaves)


def clip(space: Space, leaf: Any) -> Any:
    """The leaf, set to the end of its clip range where it is beyond."""
    if space.clip is None:
        return np.asarray(leaf)
    low, high = (space.unconstrained(np.float64(end), OPS) for end in space.clip)
    return np.clip(leaf, low, high)


def in_leaves(natural: HyperGradient, slopes: Any) -> HyperGradient:
    """The hypergradient in the leaves, from that in natural values and d value / d leaf."""
    parts = {part: tree.map(np.multiply, getattr(natural, part), slopes) for part in ("total", "direct", "indirect")}
    return HyperGradient(**parts, outer_loss=natural.outer_loss, status=natural.status, stats=natural.stats)


def idle(leaves: Any) -> HyperGradient:
    """What a step without a hypergradient reports."""
    zeros = tree.map(np.zeros_like, leaves)
    return HyperGradient(
        total=zeros, direct=zeros, indirect=zeros, outer_loss=np.asarray(np.nan), status=Status.IDLE, stats=Stats()
    )


def is_finite(found: HyperGradient) -> bool:
    """Whether the total and the outer loss are."""
    return all(np.isfinite(leaf).all() for leaf in [*tree.leaves(found.total), found.outer_loss])


def hyper_step(tuner: Any, found: HyperGradient, state: Any, after: Any, *, failing: Any, watch: Watch) -> Event:
    """The hyperparameters' move by the outer optimizer, written into `after`; what the tuner's guard did.

    Without a guard, raises the error of `found`, of the spec `failing`, where the total is not finite and the tuner
    throws.
    """
    event, scale = judged(tuner, found, state, after, failing=failing, watch=watch)
    if event is Event.SKIPPED:
        return event
    total = tree.map(lambda leaf: leaf * scale, found.total)
    steps, after["outer_opt_state"] = tuner.outer_optimizer.update(total, state["outer_opt_state"], state["hparams"])
    after["hparams"] = map_spaces(clip, tuner.spaces, tree.map(np.add, state["hparams"], steps))
    return event


def judged(
    tuner: Any, found: HyperGradient, state: Any, after: Any, *, failing: Any, watch: Watch
) -> tuple[Event, float]:
    """What the tuner's guard does with a hypergradient, and what to multiply it by; without a guard, raise or watch."""
    finite, scale, event = is_finite(found), 1.0, Event.NONE
    if tuner.guard is None:
        if tuner.throw and not found.status.ok and not finite:
            raise error_for(found.status, failing, found.stats, where=f"training step {after['step']}")
        watch.see(norm(found.total), step=after["step"])
    else:
        event, scale = tuner.guard.judge(norm(found.total), finite=finite)
        after["events"] = counted(state["events"], event)
    return event, scale


def no_events() -> dict[str, int]:
    """The counts of a guard that has seen nothing."""
    return {"clipped": 0, "skipped": 0}


def counted(events: dict[str, int], event: Event) -> dict[str, int]:
    """The counts after one more event."""
    return {name: count + (event.name.lower() == name) for name, count in events.items()}


def norm(values: Any) -> float:
    """The norm of all entries of a tree."""
    return math.hypot(*(float(np.linalg.norm(leaf)) for leaf in tree.leaves(values)))


def loss_and_gradient(inner: WeightUpdate, params: Any, values: Any, batch: Any) -> tuple[float, Vector]:
    """L_in and ∇_w L_in, flat."""
    w, restore = flatten(params)
    loss = scalar_loss(inner.loss, "inner loss")
    return autograd.value_and_grad(lambda x: loss(restore(x), values, batch))(w)  # pyright: ignore[reportCallIssue]


def weight_step(inner: WeightUpdate, params: Any, opt_state: Any, values: Any, batch: Any) -> tuple[float, Any, Any]:
    """(the loss before it, params and optimizer state after it) of one training step."""
    _, restore = flatten(params)
    loss, slopes = loss_and_gradient(inner, params, values, batch)
    updates, opt_state = functional_optimizer(inner, values).update(restore(slopes), opt_state, params)
    return loss, tree.map(np.add, params, updates), opt_state


def require_outer_optimizer(tuner: str, optimizer: Any) -> None:
    """Raise UnsupportedOptimizer unless it is a functional rule."""
    require_optimizer(f"{tuner}.outer_optimizer", optimizer)


def require_optimizer(title: str, optimizer: Any) -> None:
    """Raise UnsupportedOptimizer, naming the argument, unless it is a functional rule."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise UnsupportedOptimizer(
            f"{title}: got {type(optimizer).__name__}, limit: an object with init and update. "
            "Remedy: nestgrad_reference.optim.adam(0.05)."
        )
