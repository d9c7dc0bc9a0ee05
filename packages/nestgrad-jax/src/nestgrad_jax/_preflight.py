"""Preflight: what is wrong with a problem before a run, by derivatives beside differences of the functions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import checkify
from jax.flatten_util import ravel_pytree

from nestgrad import (
    BilevelProblem,
    Finding,
    FixedPoint,
    InvalidInput,
    Probe,
    Root,
    SuspectBroadcast,
    WeightUpdate,
    examine_probe,
    report_findings,
    require_inner,
)
from nestgrad_jax._calls import as_call, require_hashable, settled
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import floating_leaves, linearize, outer_gradients
from nestgrad_jax._explain import explained
from nestgrad_jax._rules._common import Call
from nestgrad_jax._rules._steps import Steps
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import flat, is_traced, named_leaves

_STEPS = 2
"""Steps of a weight update that are probed: in the first one an empty momentum has no effect."""


def check(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    allow_no_effect: Collection[str] = (),
    strict: bool = False,
) -> tuple[Finding, ...]:
    """Look for what makes hypergradients zero or wrong without a word; warn of each finding and return them all.

    Warned of: a derivative that is exactly 0 or is not what differences say (ZeroHypergradient, WrongDerivative; both
    levels are probed at once), and a loss that spreads (N, 1) against (N,) (SuspectBroadcast). Raised: a hyperparameter
    without any path, an empty batch, an index out of range, wrong dtypes, operations that cannot be differentiated.
    allow_no_effect names hyperparameters that may act on nothing, as "block/lr". strict raises
    DisconnectedHyperparameter in place of the first warning. It is meant for once per run, outside of jit.
    """
    require_inner(problem.inner)
    require_hashable("check", problem=problem)
    batches = {"inner_batch": inner_batch, "outer_batch": outer_batch}
    if is_traced((params, hparams, inner_batch, outer_batch)):
        raise InvalidInput("check: called under 1 jit, vmap or scan, limit 0. Remedy: call it once, before the run.")
    for title, batch in batches.items():
        _require_filled(title, batch)
    trees = {"params": params, "hparams": hparams, **batches, "opt_state": opt_state}
    with explained("check", **trees):
        call = settled(as_call(params, hparams, **batches, opt_state=opt_state))
        _require_in_range(problem, call)
        _check_paths(problem, call)
        findings = _broadcasts(problem, call)
        probes = _probes(problem, call)
        found = [*findings, *(each for probe in probes if (each := examine_probe(probe, allow_no_effect)))]
    return report_findings(found, strict=strict)


def _require_filled(title: str, batch: Any) -> None:
    for name, leaf in named_leaves(title, batch):
        if jnp.size(leaf) == 0:
            raise InvalidInput(
                f"{name}: shape {jnp.shape(leaf)}, limit: at least 1 entry; the mean over none is NaN. "
                "Remedy: drop the empty batch."
            )


def _functions(problem: BilevelProblem, call: Call) -> dict[str, tuple[Callable[..., Any], Any]]:
    """The user's functions of (params, hparams, batch), with their batches."""
    inner = problem.inner
    if isinstance(inner, FixedPoint):
        first = ("FixedPoint.map", inner.map)
    elif isinstance(inner, Root):
        first = ("Root.residual", inner.residual)
    else:
        first = ("inner loss", inner.loss)
    return {first[0]: (first[1], call.inner_batch), "outer_loss": (problem.outer_loss, call.outer_batch)}


def _require_in_range(problem: BilevelProblem, call: Call) -> None:
    """Raise InvalidInput for an index out of range, which JAX itself moves to the nearest end."""
    for title, (function, batch) in _functions(problem, call).items():
        try:
            error, _ = _index_checked(function)(call.params, call.hparams, batch)
        except NotImplementedError:  # an operation that the checks do not know
            continue
        if (message := error.get()) is not None:
            raise InvalidInput(
                f"{title}: 1 index or more out of range, limit 0 ({message.splitlines()[0]}). "
                "Remedy: check the labels or token ids of the batch; JAX would take the nearest entry."
            )


@lru_cache(maxsize=64)
def _index_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function's compiled form that reports indices out of range; the same for later calls, as jit keys by it."""
    return jax.jit(checkify.checkify(function, errors=checkify.index_checks))


def _broadcasts(problem: BilevelProblem, call: Call) -> list[Finding]:
    """A finding for each pair of shapes (N, 1) and (N,) that a function spreads to (N, N)."""
    found: dict[str, Finding] = {}
    for title, (function, batch) in _functions(problem, call).items():
        with warnings.catch_warnings(record=True) as seen, jax.numpy_rank_promotion("warn"):
            warnings.simplefilter("always")
            jax.eval_shape(lambda *args, f=function: f(*args), call.params, call.hparams, batch)
        for warning in seen:
            shapes = [tuple(map(int, re.findall(r"\d+", part))) for part in _SHAPE.findall(str(warning.message))]
            for wide, narrow in zip(shapes, shapes[1:], strict=False):
                if _spreads(wide, narrow) or _spreads(narrow, wide):
                    message = (
                        f"{title}: shapes {wide} and {narrow} are combined to {np.broadcast_shapes(wide, narrow)}, "
                        "limit: equal shapes. Remedy: .squeeze(-1) on the one with the extra axis."
                    )
                    found[message] = Finding(kind=SuspectBroadcast, name=title, message=message)
    return list(found.values())


_SHAPE = re.compile(r"\((?:\d+, ?)*\d*,?\)")


def _spreads(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    """Whether these are (…, N, 1) and (N,), N above 1."""
    return len(narrow) == 1 and len(wide) > 1 and wide[-1] == 1 and wide[-2] == narrow[0] > 1


@partial(jax.jit, static_argnames="problem")
def _check_paths(problem: BilevelProblem, call: Call) -> Array:
    """Raise, while tracing, DisconnectedHyperparameter for a leaf without any path."""
    point = linearize(problem.inner, call.params, call.hparams, call.inner_batch, call.opt_state)
    outer = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    direct = reached(lambda x: outer.pull(x)[1], jnp.ones_like(outer.loss))
    require_connected(call.hparams, direct, reached(point.hparam_product, point.residual))
    return outer.loss


@partial(jax.jit, static_argnames="problem")
def _probed(problem: BilevelProblem, hparams: Any, call: Call, weights: Array, scale: Array) -> tuple[Array, Array]:
    """(L_out, one number that the inner problem feeds) and their weighted sum, as functions of hparams."""
    outer = scalar_loss(problem.outer_loss, "outer_loss")(call.params, hparams, call.outer_batch)
    exact = jax.lax.Precision.HIGHEST
    return outer + scale * jnp.dot(weights, _vector(problem, hparams, call), precision=exact), outer


def _vector(problem: BilevelProblem, hparams: Any, call: Call) -> Array:
    """F at the params given; for a weight update, how far two steps move them."""
    if not isinstance(problem.inner, WeightUpdate):
        return linearize(problem.inner, call.params, hparams, call.inner_batch, None).residual
    steps = Steps(problem.inner)
    start = state = steps.start(call.params, call.hparams, call.opt_state)
    for _ in range(_STEPS):
        state = steps.advance(state, hparams, call.inner_batch)
    return flat(state[0]) - flat(start[0])


@partial(jax.jit, static_argnames="problem")
def _slopes(problem: BilevelProblem, call: Call, weights: Array, scale: Array) -> Any:
    """The derivative of `_probed` in hparams, by the very products that hypergradients are made of."""
    outer = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    direct = outer.pull(jnp.ones_like(outer.loss))[1]
    return jax.tree.map(lambda a, b: a + scale * b, direct, _pulled(problem, call, weights))


def _pulled(problem: BilevelProblem, call: Call, weights: Array) -> Any:
    """The transposed derivative of `_vector` in hparams, applied to the weights."""
    if not isinstance(problem.inner, WeightUpdate):
        return linearize(problem.inner, call.params, call.hparams, call.inner_batch, None).hparam_product(weights)
    steps = Steps(problem.inner)
    states = [steps.start(call.params, call.hparams, call.opt_state)]
    for _ in range(_STEPS - 1):
        states.append(steps.advance(states[-1], call.hparams, call.inner_batch))
    floats = [jnp.zeros_like(leaf) for leaf in floating_leaves(states[0][1])[0]]
    a_w, total = ravel_pytree(call.params)[1](weights), jax.tree.map(jnp.zeros_like, call.hparams)
    for state in reversed(states):
        a_w, floats, share = steps.linearized(state, call.hparams, call.inner_batch)[1](a_w, floats)
        total = jax.tree.map(jnp.add, total, share)
    return total


def _probes(problem: BilevelProblem, call: Call) -> list[Probe]:
    """One probe for each hyperparameter."""
    dtype = flat(call.params).dtype
    size = flat(call.params).size
    weights = jnp.asarray(np.random.default_rng(0).normal(size=size), dtype)
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    level = float(_probed(problem, call.hparams, call, weights, zero)[1])
    inner = float(_probed(problem, call.hparams, call, weights, one)[0]) - level
    # Neither level may drown the other in its rounding.
    scale = jnp.asarray(abs(level / inner) if level and inner and np.isfinite(level / inner) else 1.0, dtype)
    slopes = jax.tree.leaves(_slopes(problem, call, weights, scale))
    leaves, structure = jax.tree.flatten(call.hparams)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(call.hparams)[0]
    ]

    def probe(i: int) -> Probe:
        leaf, slope = leaves[i], np.asarray(slopes[i], np.float64)
        unit = jnp.where(leaf == 0, jnp.ones_like(leaf), jnp.abs(leaf))

        def value(step: float) -> float:
            moved = [leaf + jnp.asarray(step, dtype) * unit if j == i else each for j, each in enumerate(leaves)]
            return float(_probed(problem, jax.tree.unflatten(structure, moved), call, weights, scale)[0])

        return Probe(
            name=names[i],
            value=value,
            slope=float((slope * np.asarray(unit, np.float64)).sum()),
            size=float(np.linalg.norm(slope)),
            noise=4.0 * float(jnp.finfo(dtype).eps),
        )

    return [probe(i) for i, leaf in enumerate(leaves) if leaf.size]
