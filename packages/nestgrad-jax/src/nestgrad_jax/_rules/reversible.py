"""Unrolled(mode="reversible"): the run is undone step by step in integers, so that no state is stored.

w and v are held as int64 multiples of 2⁻⁵². Multiplying v by β = n/d, d = 2¹⁶, loses log₂(d/n) bits an entry; they are
kept in a third integer, the remainders: push v mod d in base d, then v ← ⌊v/d⌋ n + a digit popped in base n. Undoing it
is the same with n and d exchanged. Where the remainders might overflow they are put aside whole, and taken up again at
the same step on the way back. (Maclaurin, Duvenaud and Adams 2015, alg. 3.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nestgrad import (
    BilevelProblem,
    DtypeMismatch,
    HyperGradient,
    InvalidInput,
    NestgradError,
    Unrolled,
    UnsupportedOptimizer,
    UnsupportedSpec,
    WeightUpdate,
)
from nestgrad_jax._calls import settled
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import functional_optimizer, outer_gradients
from nestgrad_jax._rules._common import Call, stats_of, truncated
from nestgrad_jax._rules._steps import Steps
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import flat, is_traced, tree_norm
from nestgrad_jax.optim._common import spread
from nestgrad_jax.optim._reversible import DENOMINATOR, ReversibleSGD, ReversibleState

_RADIX = 2.0**52
_LARGEST = 2.0**10
"""Entries above this leave too little room in 63 bits."""
_FULL = 2**46
"""Remainders above this are put aside before another digit is pushed."""


class _Exact(NamedTuple):
    """w, v and the remainders, trees of int64; largest is the largest |w| or |v| met."""

    weights: Any
    velocity: Any
    remainders: Any
    largest: Array


def reversible(spec: Unrolled, problem: BilevelProblem, given: Call) -> HyperGradient:
    """An eager loop over compiled steps, forward and then back; it checks that the start is restored to the bit."""
    _require_eager(given)
    call = settled(given)
    inner: Any = problem.inner  # a WeightUpdate, as the table of legal pairs has it
    hparams = call.hparams
    rule = _rule(inner, hparams)
    numerator = _numerator(rule)
    batch_of = _batches(call)
    state = _start(call, rule)
    aside: list[Any] = []
    undo: list[bool] = []
    bound, anchor = 0, None
    for t in range(spec.num_steps):
        if t == spec.num_steps - spec.window:
            anchor = state
        bound, full = _after_digit(bound, numerator)
        if full:
            aside.append(state.remainders)
            state = state._replace(remainders=jax.tree.map(jnp.zeros_like, state.remainders))
        undo.append(full)
        state = _step(inner, state, hparams, batch_of(t), call.params, numerator)
    end = state
    found = _backward(spec, problem, call, end, numerator, batch_of, aside, undo)
    _require_restored(anchor, found[0], end)
    return _result(spec, problem, call, end, found)


def _backward(
    spec: Unrolled,
    problem: BilevelProblem,
    call: Call,
    state: _Exact,
    numerator: int,
    batch_of: Callable[[int], Any],
    aside: list[Any],
    undo: list[bool],
) -> tuple[_Exact, Any, Any, Any]:
    """(restored state, indirect, ∂L_out/∂w, last update) by undoing the steps of the window."""
    inner: Any = problem.inner  # a WeightUpdate, as the table of legal pairs has it
    hparams = call.hparams
    by_params, _, _ = _outer(problem, _floats(state.weights, call.params), hparams, call.outer_batch)
    a_w, a_v = by_params, jax.tree.map(jnp.zeros_like, by_params)
    indirect, last = jax.tree.map(jnp.zeros_like, hparams), None
    kept = list(aside)
    for t in range(spec.num_steps - 1, spec.num_steps - spec.window - 1, -1):
        after = state.weights
        state = _unstep(inner, state, hparams, batch_of(t), call.params, numerator)
        if undo[t]:
            state = state._replace(remainders=kept.pop())
        if last is None:
            last = jax.tree.map(jnp.subtract, after, state.weights)
            _check_connected(problem, call, state, batch_of(t))
        (a_w, a_v), share = _pull(inner, state, hparams, batch_of(t), call.params, (a_w, a_v))
        indirect = jax.tree.map(jnp.add, indirect, share)
    return state, indirect, by_params, last


def _require_eager(given: Call) -> None:
    if is_traced(given):
        raise UnsupportedSpec(
            "Unrolled(mode='reversible'): called under 1 jit, vmap or scan, limit 0, as it loops in Python. "
            "Remedy: call it outside, or use checkpoint_every='sqrt'."
        )
    if jnp.zeros((), jnp.result_type(float)).dtype != jnp.float64:
        raise DtypeMismatch(
            "Unrolled(mode='reversible'): 32-bit integers, limit: int64, which holds the run exactly. "
            "Remedy: jax.config.update('jax_enable_x64', True)."
        )


def _rule(inner: WeightUpdate, hparams: Any) -> ReversibleSGD:
    rule = functional_optimizer(inner, hparams)
    if not isinstance(rule, ReversibleSGD):
        raise UnsupportedOptimizer(
            f"Unrolled(mode='reversible'): optimizer {type(rule).__name__}, limit: ReversibleSGD. "
            "Remedy: return nestgrad_jax.optim.reversible_sgd(learning_rate, momentum)."
        )
    return rule


def _numerator(rule: ReversibleSGD) -> int:
    """n of β = n / 65536."""
    n = round(float(rule.momentum) * DENOMINATOR)
    if not 0 < n < DENOMINATOR:
        raise InvalidInput(
            f"reversible_sgd.momentum: got {float(rule.momentum):.6g}, limit: 1/65536 to 65535/65536, as a product "
            "with 0 cannot be undone. Remedy: momentum=0.9, or mode='reverse'."
        )
    return n


def _batches(call: Call) -> Callable[[int], Any]:
    return (lambda t: call.inner_batch) if call.inner_batches is None else (lambda t: call.inner_batches[t])


def _start(call: Call, rule: ReversibleSGD) -> _Exact:
    held = rule.init(call.params) if call.opt_state is None else call.opt_state
    if not isinstance(held, ReversibleState):
        raise InvalidInput(
            f"opt_state: got {type(held).__name__}, limit: ReversibleState. Remedy: pass that of an earlier result."
        )
    largest = max(float(jnp.abs(flat(tree)).max()) for tree in (call.params, held.velocity))
    if not largest <= _LARGEST:
        raise InvalidInput(_too_large(largest))
    weights, velocity = (jax.tree.map(_fixed, tree) for tree in (call.params, held.velocity))
    return _Exact(weights, velocity, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.float64))


def _too_large(largest: float) -> str:
    return (
        f"Unrolled(mode='reversible'): largest |w| or |v| is {largest:.3g}, limit {_LARGEST:g} in fixed point. "
        "Remedy: mode='reverse', or smaller rates."
    )


def _fixed(x: Array) -> Array:
    return jnp.round(x.astype(jnp.float64) * _RADIX).astype(jnp.int64)


def _floats(fixed: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, old: (x.astype(jnp.float64) / _RADIX).astype(old.dtype), fixed, like)


def _after_digit(bound: int, numerator: int) -> tuple[int, bool]:
    """(bound on the remainders after another digit, whether they must be put aside before it)."""
    full = bound >= _FULL
    start = 0 if full else bound
    return (start * DENOMINATOR + DENOMINATOR - 1) // numerator, full


@partial(jax.jit, static_argnames="inner")
def _impulse(inner: WeightUpdate, weights: Any, hparams: Any, batch: Any, like: Any) -> Any:
    """(1 - β) g in fixed point: one program for both ways, so that what is added is what is taken away."""
    rule = functional_optimizer(inner, hparams)
    grads = jax.grad(scalar_loss(inner.loss, "inner loss"))(_floats(weights, like), hparams, batch)
    return jax.tree.map(lambda g: _fixed((1.0 - rule.momentum).astype(g.dtype) * g), grads)


@partial(jax.jit, static_argnames="inner")
def _move(inner: WeightUpdate, velocity: Any, hparams: Any, like: Any) -> Any:
    """α v in fixed point."""
    rates = spread(functional_optimizer(inner, hparams).learning_rate, like)
    return jax.tree.map(lambda rate, v: _fixed(rate * v), rates, _floats(velocity, like))


@jax.jit
def _multiply(x: Any, remainders: Any, above: Array, below: Array) -> tuple[Any, Any]:
    """(x · above / below, remainders) in integers; exchanging above and below undoes it."""

    def one(value: Array, left: Array) -> tuple[Array, Array]:
        left = left * below + value % below
        return (value // below) * above + left % above, left // above

    values, structure = jax.tree.flatten(x)
    pairs = [one(value, left) for value, left in zip(values, jax.tree.leaves(remainders), strict=True)]
    moved, left = zip(*pairs, strict=True)
    return jax.tree.unflatten(structure, moved), jax.tree.unflatten(structure, left)


def _step(inner: WeightUpdate, s: _Exact, hparams: Any, batch: Any, like: Any, numerator: int) -> _Exact:
    velocity, remainders = _multiply(s.velocity, s.remainders, np.int64(numerator), np.int64(DENOMINATOR))
    velocity = jax.tree.map(jnp.subtract, velocity, _impulse(inner, s.weights, hparams, batch, like))
    weights = jax.tree.map(jnp.add, s.weights, _move(inner, velocity, hparams, like))
    largest = jnp.maximum(s.largest, _largest(weights, velocity))
    return _Exact(weights, velocity, remainders, largest)


def _unstep(inner: WeightUpdate, s: _Exact, hparams: Any, batch: Any, like: Any, numerator: int) -> _Exact:
    weights = jax.tree.map(jnp.subtract, s.weights, _move(inner, s.velocity, hparams, like))
    velocity = jax.tree.map(jnp.add, s.velocity, _impulse(inner, weights, hparams, batch, like))
    velocity, remainders = _multiply(velocity, s.remainders, np.int64(DENOMINATOR), np.int64(numerator))
    return _Exact(weights, velocity, remainders, s.largest)


@jax.jit
def _largest(weights: Any, velocity: Any) -> Array:
    return jnp.maximum(jnp.abs(flat(weights)).max(), jnp.abs(flat(velocity)).max()).astype(jnp.float64) / _RADIX


@partial(jax.jit, static_argnames="inner")
def _pull(inner: WeightUpdate, s: _Exact, hparams: Any, batch: Any, like: Any, adjoint: Any) -> tuple[Any, Any]:
    """The adjoint of one step at the state before it, and that step's share of the hypergradient."""
    state = (_floats(s.weights, like), ReversibleState(_floats(s.velocity, like)))
    velocity, restore = jax.tree.flatten(adjoint[1])
    in_w, in_floats, in_hparams = Steps(inner).linearized(state, hparams, batch)[1](adjoint[0], velocity)
    return (in_w, jax.tree.unflatten(restore, in_floats)), in_hparams


@partial(jax.jit, static_argnames="problem")
def _outer(problem: BilevelProblem, params: Any, hparams: Any, batch: Any) -> tuple[Any, Any, Array]:
    outer = outer_gradients(problem.outer_loss, params, hparams, batch)
    by_params, direct = outer.pull(jnp.ones_like(outer.loss))
    return by_params, direct, outer.loss


@partial(jax.jit, static_argnames="problem")
def _check_connected(problem: BilevelProblem, call: Call, s: _Exact, batch: Any) -> Array:
    """Raise DisconnectedHyperparameter, while tracing, from one step and the outer loss; the result says nothing."""
    ones = jax.tree.map(jnp.ones_like, call.params)

    def share(a: Array) -> Any:
        scaled = jax.tree.map(lambda x: x * a, (ones, ones))
        return _pull(problem.inner, s, call.hparams, batch, call.params, scaled)[1]

    outer = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    one = jnp.ones((), flat(call.params).dtype)
    direct = reached(lambda x: outer.pull(x)[1], jnp.ones_like(outer.loss))
    require_connected(call.hparams, direct, reached(share, one))
    return one


def _require_restored(anchor: _Exact | None, restored: _Exact, end: _Exact) -> None:
    """Raise unless the start of the window is back to the bit, and the numbers never left their range."""
    if not (largest := float(end.largest)) <= _LARGEST:
        raise InvalidInput(_too_large(largest))
    pairs = zip(jax.tree.leaves(anchor[:3] if anchor else ()), jax.tree.leaves(restored[:3]), strict=True)
    wrong = sum(int((a != b).sum()) for a, b in pairs)
    if wrong:
        raise NestgradError(
            f"Unrolled(mode='reversible'): {wrong} integers of the start are not restored, limit 0. "
            "Remedy: the loss must give the same bits for the same arguments; use mode='reverse' where it cannot."
        )


def _result(
    spec: Unrolled, problem: BilevelProblem, call: Call, end: _Exact, found: tuple[_Exact, Any, Any, Any]
) -> HyperGradient:
    _, indirect, by_params, last = found
    params = _floats(end.weights, call.params)
    _, direct, loss = _outer(problem, params, call.hparams, call.outer_batch)
    stats = stats_of(
        params,
        indirect,
        rhs_norm=tree_norm(by_params),
        steps=spec.num_steps,
        products=spec.window,
        inner_optimality=tree_norm(_floats(last, call.params)),
    )
    return truncated(
        direct=direct,
        indirect=indirect,
        outer_loss=loss,
        stats=stats,
        params=params,
        opt_state=ReversibleState(_floats(end.velocity, call.params)),
    )
