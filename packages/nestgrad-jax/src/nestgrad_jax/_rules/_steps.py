"""The steps of an inner problem that can be unrolled: s → Φ(s, λ, batch), and the derivatives of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import FixedPoint, ProximalGradient
from nestgrad_jax._derivatives import floating_leaves, functional_optimizer, map_value, proximal_map
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import moved_by, require_like

State = tuple[Any, Any]
"""(weights, optimizer state); the second is None where there is none."""

Pull = Callable[[Any, list[Array]], tuple[Any, list[Array], Any]]
"""(a_w, a_floats) -> (Aᵀa in w, Aᵀa in the state's floating leaves, Bᵀa)."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one inner problem: a WeightUpdate, a FixedPoint or a ProximalGradient."""

    inner: Any

    def start(self, params: Any, hparams: Any, opt_state: Any) -> State:
        """s_0, every leaf in a settled type, as the carry of a loop must be."""
        if isinstance(self.inner, (FixedPoint, ProximalGradient)):
            return _strong(params), None
        state = functional_optimizer(self.inner, hparams).init(params) if opt_state is None else opt_state
        return _strong((params, state))

    def advance(self, state: State, hparams: Any, batch: Any) -> State:
        """One step."""
        w = state[0]
        if isinstance(self.inner, FixedPoint):
            return _like(map_value(self.inner, w, hparams, batch), w), None
        grads = jax.grad(scalar_loss(self.inner.loss, "inner loss"))(w, hparams, batch)
        return self._apply(grads, state, hparams)

    def _apply(self, grads: Any, state: State, hparams: Any) -> State:
        w, held = state
        if isinstance(self.inner, ProximalGradient):
            size = self.inner.step_size
            before = jax.tree.map(lambda x, g: x - size * g, w, grads)
            after = require_like(w, proximal_map(self.inner, hparams)(before, size), "ProximalGradient.prox")
            return _like(after, w), None
        updates, after = functional_optimizer(self.inner, hparams).update(grads, held, w)
        return _like(moved_by(w, updates), w), _like(after, held)

    def linearized(self, state: State, hparams: Any, batch: Any) -> tuple[State, Pull]:
        """(next state, the transposes of A = ∂Φ/∂s and B = ∂Φ/∂λ at this state), from one linearisation.

        The loss's gradient is linearised forward, and transposed by the symmetry of second derivatives; only what
        surrounds it is transposed by reverse mode, which is slow through the gradients of convolutions.
        """
        w, held = state
        floats, with_floats = floating_leaves(held)
        if isinstance(self.inner, FixedPoint):
            return _of_map(self.inner, w, hparams, batch)
        both = jax.grad(scalar_loss(self.inner.loss, "inner loss"), argnums=(0, 1))
        (grads, _), push = jax.linearize(lambda x: both(x, hparams, batch), w)

        def after(g: Any, x: Any, f: list[Array], h: Any) -> tuple[Any, State]:
            moved, next_held = self._apply(g, (x, with_floats(f)), h)
            return (moved, floating_leaves(next_held)[0]), (moved, next_held)

        _, back, ended = jax.vjp(after, grads, w, floats, hparams, has_aux=True)

        def pulled(a_w: Any, a_floats: list[Array]) -> tuple[Any, list[Array], Any]:
            by_grads, by_w, by_floats, by_hparams = back((a_w, a_floats))
            in_w, in_hparams = push(by_grads)
            return jax.tree.map(jnp.add, by_w, in_w), by_floats, jax.tree.map(jnp.add, by_hparams, in_hparams)

        return ended, pulled

    def push(self, state: State, hparams: Any, batch: Any) -> tuple[State, Callable[[Any, list[Array], Any], Any]]:
        """(next state, tangents of (w, floats, λ) -> tangents of the next (w, floats)), from one linearisation."""
        w, held = state
        floats, with_floats = floating_leaves(held)

        def after(x: Any, f: list[Array], h: Any) -> tuple[Any, State]:
            ended = self.advance((x, with_floats(f)), h, batch)
            return (ended[0], floating_leaves(ended[1])[0]), ended

        _, tangent, ended = jax.linearize(after, w, floats, hparams, has_aux=True)
        return ended, tangent


def _of_map(inner: FixedPoint, w: Any, hparams: Any, batch: Any) -> tuple[State, Pull]:
    value, back = jax.vjp(lambda x, h: map_value(inner, x, h, batch), w, hparams)

    def pulled(a_w: Any, a_floats: list[Array]) -> tuple[Any, list[Array], Any]:
        in_w, in_hparams = back(a_w)
        return in_w, a_floats, in_hparams

    return (_like(value, w), None), pulled


@dataclass(frozen=True, slots=True)
class Batches:
    """One batch a step: the same one for all (stacked None), a stack to scan over, or a list of unequal shapes.

    straight: loops are written out, as steps are many times slower inside one.
    """

    same: Any = None
    stacked: Any = None
    listed: Sequence[Any] | None = None
    straight: bool = False

    @staticmethod
    def of(inner_batch: Any, inner_batches: Sequence[Any] | None) -> Batches:
        """The batches of a call."""
        if inner_batches is None:
            return Batches(same=inner_batch)
        first, *others = [(jax.tree.structure(b), [jax.typeof(x) for x in jax.tree.leaves(b)]) for b in inner_batches]
        if all(other == first for other in others):
            return Batches(stacked=jax.tree.map(lambda *leaves: jnp.stack(leaves), *inner_batches))
        return Batches(listed=list(inner_batches))

    def part(self, start: int, stop: int) -> Batches:
        """The batches of the steps start … stop - 1."""
        if self.listed is not None:
            return replace(self, listed=self.listed[start:stop])
        if self.stacked is None:
            return self
        return replace(self, stacked=jax.tree.map(lambda x: x[start:stop], self.stacked))

    def at(self, step: int) -> Any:
        """The batch of one step."""
        if self.listed is not None:
            return self.listed[step]
        return self.same if self.stacked is None else jax.tree.map(lambda x: x[step], self.stacked)

    def steps(self, body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, length: int) -> tuple[Any, Any]:
        """body(carry, batch) -> (carry, y) over the steps; the ys stacked."""
        if self.listed is None and not self.straight:
            return lax.scan(lambda c, x: body(c, self.same if x is None else x), carry, self.stacked, length=length)
        found = []
        for i in range(length):
            carry, y = body(carry, self.at(i))
            found.append(y)
        return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *found)

    def loop(
        self,
        body: Callable[[Any, Any, Any], tuple[Any, Any]],
        carry: Any,
        length: int,
        *,
        xs: Any = None,
        reverse: bool = False,
    ) -> tuple[Any, Any]:
        """body(carry, x, batch) -> (carry, y) over the steps; ys in the form that xs takes in another loop."""

        def apart(c: Any, x: Any, batch: Any) -> tuple[Any, Any]:
            # As the branch of a condition a step is compiled by itself, and so alike wherever it stands: taking it
            # again gives the same bits. The branch not taken is that of an entry that is NaN, which stays NaN.
            floats = [leaf for leaf in jax.tree.leaves(c) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
            if not floats:
                return body(c, x, batch)
            first, shapes = floats[0].ravel()[0], jax.eval_shape(body, c, x, batch)
            spare = jax.tree.map(lambda leaf: jnp.full(leaf.shape, _filler(leaf.dtype)), shapes)
            return lax.cond(first == first, body, lambda *_: spare, c, x, batch)  # noqa: PLR0124

        if self.listed is None and not self.straight:
            return lax.scan(
                lambda c, x: apart(c, x[0], self.same if self.stacked is None else x[1]),
                carry,
                (xs, self.stacked),
                length=length,
                reverse=reverse,
            )
        order = range(length - 1, -1, -1) if reverse else range(length)
        found: list[Any] = [None] * length
        for i in order:
            step = body if self.straight else apart
            carry, found[i] = step(carry, None if xs is None else xs[i], self.at(i))
        return carry, found


def _strong(tree: Any) -> Any:
    """Arrays without weak types."""
    return jax.tree.map(lambda x: lax.convert_element_type(jnp.asarray(x), jnp.asarray(x).dtype), tree)


def _like(tree: Any, old: Any) -> Any:
    """The tree in the dtypes of the one before it."""
    return jax.tree.map(lambda new, before: lax.convert_element_type(new, before.dtype), tree, old)


def _filler(dtype: Any) -> Array:
    return jnp.asarray(jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)
