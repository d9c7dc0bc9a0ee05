"""The inner residual linearised once, and the products that every solver draws from that one program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import (
    FixedPoint,
    Loss,
    Minimize,
    ProximalGradient,
    Root,
    UnsupportedOptimizer,
    WeightUpdate,
    require_inner,
)
from nestgrad_jax._slopes import Slopes, scalar_loss
from nestgrad_jax._tree import entries, flat, require_like


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearization:
    """F at a point with its four products; a flat vector has the entries of w, then those of the state carried.

    vector turns a tree like w into a vector. By leaves, vectors are such trees themselves, so that none is copied.

    transpose_product: Jᵀq, flat to flat. hparam_product: Bᵀp, flat to a tree like hparams. forward_product() builds
    J q, flat to flat; hparam_push: B ξ, a tree like hparams to flat. These two trace forward mode when first called,
    and not before. diagonal() is the diagonal P = ∂u/∂(gradient) of a WeightUpdate, None elsewhere.

    residual is F flat, symmetric says that J is a Hessian. loss is the inner loss, None for maps. move, for a
    WeightUpdate only, is (updates, next optimizer state) of the very step that was linearised. weights is the number
    of entries of w. adjoint turns a flat vector into the tree that a result holds. kink_distance and
    near_kink are a ProximalGradient's.
    """

    loss: Array | None
    residual: Any
    transpose_product: Callable[[Any], Any]
    hparam_product: Callable[[Any], Any]
    forward_product: Callable[[], Callable[[Any], Any]]
    hparam_push: Callable[[Any], Any]
    symmetric: bool
    weights: int
    adjoint: Callable[[Any], Any]
    vector: Callable[[Any], Any] = flat
    diagonal: Callable[[], Array | None] = lambda: None
    move: tuple[Any, Any] | None = None
    kink_distance: Array | None = None
    near_kink: Array | bool = False

    def lift(self, tree: Any) -> Any:
        """(v, 0): a tree like w as a vector of the whole state."""
        vector = self.vector(tree)
        if not isinstance(vector, Array):
            return vector
        return jnp.pad(vector, (0, self.residual.size - self.weights)) if self.residual.size > vector.size else vector


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer loss at a point and its pull-back: pull(scalar) = (∂L_out/∂w, ∂L_out/∂λ) times the scalar."""

    loss: Array
    pull: Callable[[Array], tuple[Any, Any]]


def outer_gradients(loss: Loss, params: Any, hparams: Any, batch: Any) -> Outer:
    """L_out at (w, λ), with the pull-back that gives its gradient in both."""
    checked = scalar_loss(loss, "outer_loss")
    return Outer(*jax.vjp(lambda p, h: checked(p, h, batch), params, hparams))


def functional_optimizer(inner: WeightUpdate, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a gradient transformation."""
    rule = inner.optimizer(hparams)
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"WeightUpdate.optimizer returned {type(rule).__name__}, limit: an object with init(params) and "
            "update(grads, state, params). Remedy: use optax.sgd or any other optax transformation."
        )
    return rule


def proximal_map(inner: ProximalGradient, hparams: Any) -> Callable[[Any, Any], Any]:
    """inner.prox(hparams), refused by name unless it can be called."""
    prox = inner.prox(hparams)
    if not callable(prox):
        raise UnsupportedOptimizer(
            f"ProximalGradient.prox returned {type(prox).__name__}, limit: a callable (params, step_size) -> params. "
            "Remedy: return prox.lasso(strength), or a function of that form."
        )
    return prox


def map_value(inner: FixedPoint | Root, params: Any, hparams: Any, batch: Any) -> Any:
    """The map's or residual's value, refused by name unless it is shaped like params."""
    title = "FixedPoint.map" if isinstance(inner, FixedPoint) else "Root.residual"
    function = inner.map if isinstance(inner, FixedPoint) else inner.residual
    return require_like(params, function(params, hparams, batch), title)


def linearize(
    inner: Any, params: Any, hparams: Any, batch: Any, opt_state: Any, *, by_leaves: bool = False
) -> Linearization:
    """F of an inner problem at (w, λ), and its derivatives there (see the problem's own definition of F).

    Where F is made of a loss's gradient, one forward-mode linearisation of (∇_w L_in, ∇_λ L_in) along w gives Hx and
    (∂²L_in/∂λ∂w)x, which by the symmetry of second derivatives are the transposed products too. So a loss is never
    differentiated in reverse twice, which is many times slower for convolutions; only the optimizer or the proximal
    map, elementwise as a rule, is transposed. The symmetry is lost where a loss carries a custom derivative that is
    not its derivative; lax.stop_gradient keeps it.

    by_leaves: vectors are trees; of a Minimize only.
    """
    require_inner(inner)
    if isinstance(inner, (FixedPoint, Root)):
        return _of_map(inner, params, hparams, batch)
    slopes = Slopes.at(inner.loss, params, hparams, batch)
    if isinstance(inner, Minimize):
        return _of_loss(slopes, params, by_leaves=by_leaves)
    if isinstance(inner, ProximalGradient):
        return _through_prox(inner, slopes, params, hparams)
    return _through_update(inner, slopes, params, hparams, opt_state)


def _of_loss(slopes: Slopes, params: Any, *, by_leaves: bool) -> Linearization:
    vector, restore = (_itself, _itself) if by_leaves else (flat, ravel_pytree(slopes.grads)[1])

    def hessian_product(given: Any) -> Any:
        return vector(slopes.push(restore(given))[0])

    return Linearization(
        loss=slopes.loss,
        residual=vector(slopes.grads),
        transpose_product=hessian_product,
        hparam_product=lambda p: slopes.after(restore(p)),
        forward_product=lambda: hessian_product,
        hparam_push=lambda direction: vector(slopes.along(direction)),
        symmetric=True,
        weights=entries(params),
        adjoint=restore,
        vector=vector,
    )


def _itself(tree: Any) -> Any:
    return tree


def _of_map(inner: FixedPoint | Root, params: Any, hparams: Any, batch: Any) -> Linearization:
    _, restore = ravel_pytree(params)

    def residual(w: Any, h: Any) -> Array:
        value = map_value(inner, w, h, batch)
        return flat(jax.tree.map(jnp.subtract, w, value)) if isinstance(inner, FixedPoint) else flat(value)

    found, pull = jax.vjp(residual, params, hparams)

    def forward_product() -> Callable[[Array], Array]:
        push = jax.linearize(lambda w: residual(w, hparams), params)[1]
        return lambda vector: push(restore(vector))

    return Linearization(
        loss=None,
        residual=found,
        transpose_product=lambda q: flat(pull(q)[0]),
        hparam_product=lambda p: pull(p)[1],
        forward_product=forward_product,
        hparam_push=lambda direction: jax.jvp(lambda h: residual(params, h), (hparams,), (direction,))[1],
        symmetric=False,
        weights=found.size,
        adjoint=restore,
    )


def _through_prox(inner: ProximalGradient, slopes: Slopes, params: Any, hparams: Any) -> Linearization:
    """F = w - prox(z), z = w - γg, as the update u of a step with no state."""

    def before(g: Any, w: Any) -> Any:
        return jax.tree.map(lambda x, slope: x - inner.step_size * slope, w, g)

    def move(g: Any, w: Any, floats: list[Array], h: Any) -> tuple[Any, Any]:
        after = proximal_map(inner, h)(before(g, w), inner.step_size)
        after = require_like(params, after, "ProximalGradient.prox")
        return (jax.tree.map(jnp.subtract, after, w), []), None

    prox: Any = proximal_map(inner, hparams)
    if not hasattr(prox, "kink_distance"):
        return _through_step(move, slopes, params, [], hparams)
    distance = prox.kink_distance(before(slopes.grads, params), inner.step_size)
    near = distance <= max(inner.kink_tol, 10.0 * float(jnp.finfo(distance.dtype).eps))
    return _through_step(move, slopes, params, [], hparams, kink_distance=distance, near_kink=near)


def _through_update(inner: WeightUpdate, slopes: Slopes, params: Any, hparams: Any, opt_state: Any) -> Linearization:
    """F = u, or (u, state - next state) where the state is carried."""
    state = functional_optimizer(inner, hparams).init(params) if opt_state is None else opt_state
    carried = inner.carry == "weights_and_state"
    floats, with_floats = floating_leaves(state) if carried else ([], lambda _: state)

    def move(g: Any, w: Any, held: list[Array], h: Any) -> tuple[Any, Any]:
        updates, after = functional_optimizer(inner, h).update(g, with_floats(held), w)
        return (updates, floating_leaves(after)[0] if carried else []), (updates, after)

    return _through_step(move, slopes, params, floats, hparams, carried=carried, with_diagonal=not carried)


def floating_leaves(state: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The floating leaves of an optimizer state, and the function that puts others in their place."""
    leaves, structure = jax.tree.flatten(state)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating)]

    def replaced(floats: list[Array]) -> Any:
        full = list(leaves)
        for place, leaf in zip(places, floats, strict=True):
            full[place] = leaf
        return jax.tree.unflatten(structure, full)

    return [jnp.asarray(leaves[place]) for place in places], replaced


def _through_step(
    move: Callable[[Any, Any, list[Array], Any], tuple[Any, Any]],
    slopes: Slopes,
    params: Any,
    floats: list[Array],
    hparams: Any,
    *,
    carried: bool = False,
    with_diagonal: bool = False,
    kink_distance: Array | None = None,
    near_kink: Array | bool = False,
) -> Linearization:
    """F = (-updates, floats - next floats) for move(g, w, floats, λ) -> ((updates, next floats), aux), g = g(w, λ)."""
    (updates, next_floats), pull, aux = jax.vjp(move, slopes.grads, params, floats, hparams, has_aux=True)
    negative, restore = ravel_pytree((updates, next_floats))
    start = flat(updates).size
    held = flat(floats) if floats else None

    def kept(vector: Array) -> Array:
        """The part of J or of its transpose that the unchanged state contributes: (0, q_state)."""
        return vector.at[:start].set(0.0)

    def transpose_product(vector: Array) -> Array:
        by_gradient, by_params, by_floats, _ = pull(restore(-vector))
        in_params = flat(slopes.push(by_gradient)[0]) + flat(by_params)
        return in_params if held is None else jnp.concatenate([in_params, flat(by_floats)]) + kept(vector)

    def hparam_product(vector: Array) -> Any:
        by_gradient, _, _, by_hparams = pull(restore(-vector))
        return jax.tree.map(jnp.add, slopes.push(by_gradient)[1], by_hparams)

    def forward_product() -> Callable[[Array], Array]:
        push = jax.linearize(lambda g, w, f: move(g, w, f, hparams)[0], slopes.grads, params, floats)[1]

        def product(vector: Array) -> Array:
            in_params, in_floats = restore(vector)
            image = -flat(push(slopes.push(in_params)[0], in_params, in_floats))
            return image if held is None else image + kept(vector)

        return product

    def hparam_push(direction: Any) -> Array:
        tangents = (slopes.along(direction), direction)
        return -flat(jax.jvp(lambda g, h: move(g, params, floats, h)[0], (slopes.grads, hparams), tangents)[1])

    def diagonal() -> Array:
        ones = jax.tree.map(jnp.ones_like, slopes.grads)
        return -flat(jax.jvp(lambda g: move(g, params, floats, hparams)[0], (slopes.grads,), (ones,))[1])

    def adjoint(vector: Array) -> Any:
        in_params, in_floats = restore(vector)
        return {"params": in_params, "opt_state": in_floats} if carried else in_params

    return Linearization(
        loss=slopes.loss,
        residual=-negative if held is None else jnp.pad(held, (start, 0)) - negative,
        transpose_product=transpose_product,
        hparam_product=hparam_product,
        forward_product=forward_product,
        hparam_push=hparam_push,
        symmetric=False,
        weights=start,
        adjoint=adjoint,
        diagonal=diagonal if with_diagonal else lambda: None,
        move=aux,
        kink_distance=kink_distance,
        near_kink=near_kink,
    )
