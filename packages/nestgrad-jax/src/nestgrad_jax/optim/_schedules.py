"""Learning rates that change with the number of steps taken, and the rules that follow them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestgrad import InvalidInput
from nestgrad_jax.optim._common import transformation

P = ParamSpec("P")


def schedulable(constructor: Callable[P, optax.GradientTransformation]) -> Callable[P, optax.GradientTransformation]:
    """Let the constructor of a rule take a schedule for its learning rate."""

    @functools.wraps(constructor)
    def made(*args: P.args, **settings: P.kwargs) -> optax.GradientTransformation:
        given: dict[str, Any] = dict(settings)
        rate = args[0] if args else given.pop("learning_rate", None)
        if not callable(rate):
            return constructor(*args, **settings)
        anew: Callable[..., optax.GradientTransformation] = constructor
        return _scheduled(lambda now: anew(now, *args[1:], **given), rate)

    return made


def _scheduled(
    make: Callable[[Any], optax.GradientTransformation], schedule: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """make(schedule(count)), count being the steps taken before this one; the state is {"count", "rule"}."""

    def init(params: Any) -> Any:
        count = jnp.zeros((), jnp.int32)
        return {"count": count, "rule": make(schedule(count)).init(params)}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, after = make(schedule(state["count"])).update(grads, state["rule"], params)
        return updates, {"count": state["count"] + 1, "rule": after}

    return transformation(init, update)


def piecewise_constant(boundaries: Sequence[int], values: Any) -> Callable[[Any], Any]:
    """count -> values[j], j being how many of the ascending boundaries are at most count; values: one more of them.

    values is a list of numbers or an array; the derivative in the entries that are not in use is zero. Raises
    InvalidInput for other numbers of values, and for boundaries that do not ascend.
    """
    ends = [int(end) for end in boundaries]
    count = len(values) if isinstance(values, (list, tuple)) else jnp.shape(values)[0]
    if count != len(ends) + 1 or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise InvalidInput(
            f"piecewise_constant: {count} values for boundaries {ends}, limit: {len(ends) + 1} values and "
            "ascending boundaries. Remedy: one value before each boundary and one after the last."
        )

    def rate(count: Any) -> Any:
        rates = values
        if isinstance(values, (list, tuple)):
            kind = _floating(*values)
            rates = jnp.stack([jnp.asarray(each, kind) for each in values])
        return jnp.asarray(rates)[jnp.sum(jnp.asarray(ends, jnp.int32) <= count)]

    return rate


def cosine(init_value: Any, decay_steps: Any, alpha: Any = 0.0) -> Callable[[Any], Any]:
    """count -> init_value · ((1 - alpha) ½ (1 + cos(π min(count / decay_steps, 1))) + alpha).

    Differentiable in all three. (Loshchilov and Hutter 2017, eq. 5, one period.)
    """

    def rate(count: Any) -> Any:
        kind = _floating(init_value, decay_steps, alpha)
        first, length, least = (jnp.asarray(each, kind) for each in (init_value, decay_steps, alpha))
        share = jnp.minimum(jnp.asarray(count, kind) / length, jnp.ones_like(length))
        return first * ((1.0 - least) * 0.5 * (1.0 + jnp.cos(np.pi * share)) + least)

    return rate


def _floating(*numbers: Any) -> Any:
    """The dtype of the first that is a floating array; that of Python's floats where none is."""
    kinds = [jax.typeof(each) for each in numbers]
    strong = [kind.dtype for kind in kinds if not kind.weak_type and jnp.issubdtype(kind.dtype, jnp.floating)]
    return strong[0] if strong else jnp.result_type(float)
