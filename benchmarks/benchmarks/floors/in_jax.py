"""The best hand-written code for each operation in jax: one jit, products by jax.linearize, to be matched.

The form "scan" runs the terms or steps in a loop, "unrolled" writes them out: convolutions in a loop are very slow on a
CPU, while dense layers are as fast in one and take less memory. In a run of SGD the step's Jacobian I - rate H is
symmetric, so that written out the cotangent is pushed forward through each step's linearisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.operations import EVERY, PRODUCTS, STEPS, TERMS
from benchmarks.problems import START
from benchmarks.sides.in_jax import LN10, Side

FORMS = ("scan", "unrolled")


def floor(side: Side, letter: str, form: str) -> Callable[[], list[Array]]:
    """A call that computes the operation's hypergradient, an array a hyperparameter ("d": one of three, and more)."""
    function, args = _WORK[letter](side, form == "unrolled")
    program = jax.jit(function)
    return lambda: jax.block_until_ready(program(*args))


def _sub(a: Any, b: Any, rate: Any) -> Any:
    return jax.tree.map(lambda x, y: x - rate * y, a, b)


def _add(a: Any, b: Any, rate: Any = 1.0) -> Any:
    return jax.tree.map(lambda x, y: x + rate * y, a, b)


def _dot(a: Any, b: Any) -> Any:
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _repeat(body: Callable[[Any], Any], carry: Any, times: int, *, unrolled: bool) -> Any:
    if unrolled:
        for _ in range(times):
            carry = body(carry)
        return carry
    return lax.scan(lambda held, _: (body(held), None), carry, length=times)[0]


def _mixed(side: Side, weights: Any, decays: Any, inner: Any, adjoint: Any) -> Any:
    """∂/∂decays ⟨∂L_in/∂w, adjoint⟩: XLA drops the network, of which the decays are no part."""

    def along(h: Any) -> Any:
        return jax.jvp(lambda w: side.penalised(w, h, inner), (weights,), (adjoint,))[1]

    return jax.grad(along)(decays)


def _arguments(side: Side) -> tuple[Any, ...]:
    return side.params, side.decays, side.inner, side.outer


def _neumann(side: Side, unrolled: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    rate = side.problem.rate

    def work(weights: Any, decays: Any, inner: Any, outer: Any) -> Any:
        _, product = jax.linearize(lambda w: jax.grad(side.penalised)(w, decays, inner), weights)
        term = jax.grad(side.error)(weights, outer)

        def add_term(held: Any) -> Any:
            term = _sub(held[0], product(held[0]), rate)
            return term, _add(held[1], term)

        _, total = _repeat(add_term, (term, term), PRODUCTS, unrolled=unrolled)
        adjoint = jax.tree.map(lambda t: -rate * t, total)
        return list(_mixed(side, weights, decays, inner, adjoint).values())

    return work, _arguments(side)


def _cg(side: Side, unrolled: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def work(weights: Any, decays: Any, inner: Any, outer: Any) -> Any:
        _, product = jax.linearize(lambda w: jax.grad(side.penalised)(w, decays, inner), weights)
        residual = jax.grad(side.error)(weights, outer)

        def step(held: Any) -> Any:
            solution, residual, direction, squared = held
            image = product(direction)
            length = squared / _dot(direction, image)
            residual = _sub(residual, image, length)
            following = _dot(residual, residual)
            onward = _add(residual, direction, following / squared)
            return _add(solution, direction, length), residual, onward, following

        start = jax.tree.map(jnp.zeros_like, residual), residual, residual, _dot(residual, residual)
        solution, *_ = _repeat(step, start, STEPS, unrolled=unrolled)
        return list(_mixed(side, weights, decays, inner, jax.tree.map(jnp.negative, solution)).values())

    return work, _arguments(side)


def _unroll(side: Side, unrolled: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    rate = side.problem.rate

    def linear(weights: Any, decays: Any, inner: Any) -> Any:
        return jax.linearize(lambda w: jax.grad(side.penalised)(w, decays, inner), weights)

    def written_out(weights: Any, decays: Any, inner: Any, outer: Any) -> Any:
        run = []
        for _ in range(STEPS):
            slope, product = linear(weights, decays, inner)
            run.append((weights, product))
            weights = _sub(weights, slope, rate)
        adjoint, total = jax.grad(side.error)(weights, outer), jax.tree.map(jnp.zeros_like, decays)
        for step, (at, product) in enumerate(reversed(run), start=1):
            total = _add(total, _mixed(side, at, decays, inner, adjoint))
            if step < STEPS:
                adjoint = _sub(adjoint, product(adjoint), rate)
        return [-rate * part for part in total.values()]

    def in_a_loop(weights: Any, decays: Any, inner: Any, outer: Any) -> Any:
        def end(h: Any) -> Any:
            def step(w: Any) -> Any:
                return _sub(w, jax.grad(side.penalised)(w, h, inner), rate)

            return side.error(_repeat(step, weights, STEPS, unrolled=False), outer)

        return list(jax.grad(end)(decays).values())

    return written_out if unrolled else in_a_loop, _arguments(side)


def _one_pass(side: Side, unrolled: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """[hypergradient in (log10 lr, log10 decay, logit momentum), those moved by Adam, moments, weights, trace]."""

    def work(weights: Any, trace: Any, tuned: Any, moments: Any, inner: Any, outer: Any) -> Any:
        rate, decay, momentum = 10.0 ** tuned[0], 10.0 ** tuned[1], jax.nn.sigmoid(tuned[2])

        def moved_by(w: Any, v: Any, slope: Any) -> Any:
            v = jax.tree.map(lambda a, g, b: momentum * b + g + decay * a, w, slope, v)
            return _sub(w, v, rate), v

        def step(held: Any) -> Any:
            return moved_by(held[0], held[1], jax.grad(side.error)(held[0], inner))

        w, v = _repeat(step, (weights, trace), EVERY - 1, unrolled=unrolled)
        slope, product = jax.linearize(lambda p: jax.grad(side.error)(p, inner), w)
        after, arrived = moved_by(w, v, slope)
        term = jax.grad(side.error)(after, outer)

        def add_term(held: Any) -> Any:
            term = _sub(held[0], _add(product(held[0]), held[0], decay), rate)
            return term, _add(held[1], term)

        _, total = _repeat(add_term, (term, term), TERMS - 1, unrolled=unrolled)
        by_momentum = momentum * (1.0 - momentum) * _dot(v, total)
        slopes = -rate * jnp.stack([LN10 * _dot(arrived, total), LN10 * decay * _dot(w, total), by_momentum])
        first, second = 0.1 * slopes + 0.9 * moments[0], 0.001 * slopes**2 + 0.999 * moments[1]
        new = tuned - 0.05 * (first / 0.1) / (jnp.sqrt(second / 0.001) + 1e-8)
        return [slopes, new, jnp.stack([first, second]), after, arrived]

    logit = jax.scipy.special.logit(START["momentum"])
    tuned = jnp.stack([jnp.log10(START["lr"]), jnp.log10(START["decay"]), logit])
    trace, moments = jax.tree.map(jnp.zeros_like, side.params), jnp.zeros((2, 3))
    return work, (side.params, trace, tuned, moments, side.inner, side.outer)


_WORK: dict[str, Callable[[Side, bool], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "a": _neumann,
    "b": _cg,
    "c": _unroll,
    "d": _one_pass,
}
