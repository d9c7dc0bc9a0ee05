"""The starts in JAX, all at once: vmap over starts, scan over steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from nestgrad_lab.clarke.starts import End, Start
from nestgrad_lab.data import Part
from nestgrad_lab.engines import Plan
from nestgrad_lab.engines.jax_engine import (
    OPTIMIZERS,
    as_batch,
    device_named,
    model_loss,
    precision_and_device,
    tuner_for,
)

CHUNK = 100
"""Steps between two looks at the clock."""


def train_starts(
    plans: Sequence[Plan],
    starts: Sequence[Start],
    train: Part,
    valid: Part,
    steps: int,
    progress: Callable[[int], bool],
) -> Iterator[End]:
    """How each start ended, in order. progress(steps taken by all) tells whether to stop."""
    dtype = plans[0].dtype
    with precision_and_device(dtype, device_named(plans[0].device)):
        batches = as_batch(train, dtype), as_batch(valid, dtype)
        weights = [{name: jnp.asarray(value, dtype) for name, value in start.weights.items()} for start in starts]
        state, advance, ends = (_tuned if plans[0].tuned else _plain)(plans, weights)
        for taken in range(0, steps, CHUNK):
            length = min(CHUNK, steps - taken)
            state = jax.block_until_ready(advance(state, *batches, length))
            if progress((taken + length) * len(starts)):
                return
        values, params = jax.tree.map(np.asarray, ends(state))
    for k, start in enumerate(starts):
        own = {name: float(column[k]) for name, column in values.items()}
        yield End({**start.values, **own}, {name: column[k] for name, column in params.items()})


def _tuned(plans: Sequence[Plan], weights: Sequence[Any]) -> tuple[Any, Any, Any]:
    """(the state of all runs, a function that advances it, one that reads hyperparameters and weights from it).

    Every hyperparameter is a leaf of the state, since each run has its own values; the outer optimizer leaves those
    alone that the algorithm does not tune.
    """
    labels = {name: "tuned" if name in plans[0].tuned else "fixed" for name in plans[0].start}
    outer = optax.multi_transform({"tuned": optax.adam(plans[0].outer_lr), "fixed": optax.set_to_zero()}, labels)
    loss = functools.partial(model_loss, plans[0].task)
    tuners = [tuner_for(loss, replace(plan, tuned=plan.start, fixed={}), outer) for plan in plans]
    tuner, states = tuners[0], [tuner.init(own) for tuner, own in zip(tuners, weights, strict=True)]
    # The step count is one for all: mapped over, it would turn "is a hyper step due?" into "take both branches".
    axes: Any = {name: None if name == "step" else 0 for name in states[0]}
    stacked = {
        name: states[0][name] if axis is None else _stacked([state[name] for state in states])
        for name, axis in axes.items()
    }

    def step(state: Any, train: Any, valid: Any) -> Any:
        return tuner.step(state, train, valid)[0]

    over_runs = jax.vmap(step, in_axes=(axes, None, None), out_axes=axes)

    @functools.partial(jax.jit, static_argnums=3)
    def advance(state: Any, train: Any, valid: Any, length: int) -> Any:
        return lax.scan(lambda carry, _: (over_runs(carry, train, valid), None), state, length=length)[0]

    return stacked, advance, lambda state: (tuner.values(state), state["params"])


def _plain(plans: Sequence[Plan], weights: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The same three for training without tuning."""
    loss, optimizer = functools.partial(model_loss, plans[0].task), OPTIMIZERS[plans[0].inner]
    values = _stacked([{name: jnp.asarray(value, plan.dtype) for name, value in plan.start.items()} for plan in plans])
    params = _stacked(weights)
    opt_state = jax.vmap(lambda own, start: optimizer(own).init(start))(values, params)

    def step(own: Any, params: Any, opt_state: Any, train: Any) -> tuple[Any, Any]:
        updates, opt_state = optimizer(own).update(jax.grad(loss)(params, None, train), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    over_runs = jax.vmap(step, in_axes=(0, 0, 0, None))

    @functools.partial(jax.jit, static_argnums=3)
    def advance(state: Any, train: Any, valid: Any, length: int) -> Any:
        return lax.scan(lambda run, _: (over_runs(values, run[0], run[1], train), None), state, length=length)[0]

    return (params, opt_state), advance, lambda state: (values, state[0])


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
