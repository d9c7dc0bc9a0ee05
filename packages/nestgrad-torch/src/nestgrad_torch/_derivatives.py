"""The inner residual linearised once, and the products that every solver draws from that one graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.linalg import vector_norm

from nestgrad import (
    DtypeMismatch,
    FixedPoint,
    InvalidInput,
    Loss,
    Minimize,
    NonScalarLoss,
    ProximalGradient,
    Root,
    UnsupportedOptimizer,
    WeightUpdate,
    tree,
)
from nestgrad_torch._second_order import lean_squares, require_twice_differentiable
from nestgrad_torch._tree import Joint, flat, split
from nestgrad_torch.distributed import ALONE, Group


@dataclass(slots=True)
class Linearization:
    """F at a point s, with the graph that gives Jᵀq, Bᵀp, Jq and Bξ by one backward pass each.

    inputs are the graph's leaves: all weights in one vector, so that a product crosses the graph's edge once and not
    once a layer; and, where the optimizer state is carried, its floating leaves (state_leaves) in another. residual is
    F as a vector, hparams the other leaves; symmetric says that J is a Hessian; gradient is the loss's, for a
    WeightUpdate; kink the relative distance to the nearest one; norm |w|, where inputs may hold no
    values. damping δ: J stands for J + δI in every product.
    group: the processes whose means the products are.
    """

    inputs: list[Tensor]
    hparams: list[Tensor]
    residual: Tensor
    symmetric: bool
    gradient: Tensor | None = None
    kink: Tensor | None = None
    norm: Tensor | None = None
    state_leaves: list[Tensor] = field(default_factory=list)
    damping: float = 0.0
    group: Group = ALONE
    _edges: tuple[GradientEdge, GradientEdge | None] | None = field(default=None, init=False)
    _optimality: Tensor | None = field(default=None, init=False)
    _pulled: tuple[Tensor, list[Tensor | None]] | None = field(default=None, init=False)
    _matrix: Tensor | None = field(default=None, init=False)

    def let_go(self) -> None:
        """Keep the place of F and of the loss's gradient in the graph, and |F|, but not their entries."""
        if self._edges is None and self.residual.requires_grad:
            self._optimality = vector_norm(self.residual.detach())
            inner = None
            if self.gradient is not None and self.gradient.requires_grad:
                inner, self.gradient = get_gradient_edge(self.gradient), None
            self._edges = get_gradient_edge(self.residual), inner
            self.residual = self.residual.new_zeros(()).expand_as(self.residual)

    def optimality(self) -> Tensor:
        """|F|."""
        return vector_norm(self.residual) if self._optimality is None else self._optimality

    def transpose_product(self, vector: Tensor) -> Tensor:
        """Jᵀ vector."""
        if len(self.inputs) == 1:
            (product,) = self._pull(vector, self.inputs)
            product = torch.zeros_like(vector) if product is None else product
        else:
            product = _joined(self._pull(vector, self.inputs), self.inputs)
        return torch.add(product, vector, alpha=self.damping) if self.damping else product

    def hparam_product(self, vector: Tensor, *, last: bool = False) -> list[Tensor | None]:
        """Bᵀ vector, one entry a hyperparameter; None where no path leads from it to F.

        last: let go of the graph on the way; there is no product after this one.
        """
        pulled = self._pull(vector, self.hparams, retain_graph=not last)
        if last:
            self._edges, self._pulled, self.residual, self.gradient = None, None, self.residual.detach(), None
        return pulled

    def product(self, vector: Tensor) -> Tensor:
        """J vector: the derivative, in u, of ⟨Jᵀu, vector⟩."""
        if self.symmetric:
            return self.transpose_product(vector)
        if not self._attached:
            product = torch.zeros_like(vector)
        else:
            dummy, pulled = self._pulled_back()
            parts = vector.split([x.numel() for x in self.inputs])
            product = self._push(dummy, pulled[: len(self.inputs)], list(parts))
        return torch.add(product, vector, alpha=self.damping) if self.damping else product

    def hparam_push(self, direction: list[Tensor]) -> Tensor:
        """B direction."""
        if not self._attached:
            return torch.zeros_like(self.residual)
        dummy, pulled = self._pulled_back()
        return self._push(dummy, pulled[len(self.inputs) :], direction)

    def connected(self) -> list[bool]:
        """For each hyperparameter, whether a differentiable path leads from it to F."""
        if not self._attached:
            return [False] * len(self.hparams)
        _, pulled = self._pulled_back()
        return [part is not None for part in pulled[len(self.inputs) :]]

    def matrix(self) -> tuple[Tensor, int]:
        """(Jᵀ, the products it took now): column i is Jᵀ eᵢ; kept, so a second solve takes none."""
        if self._matrix is not None:
            return self._matrix, 0
        basis = torch.eye(self.residual.numel(), dtype=self.residual.dtype, device=self.residual.device)
        self._matrix = torch.stack([self.transpose_product(row) for row in basis], dim=1)
        return self._matrix, len(basis)

    def diagonal(self) -> Tensor | None:
        """P = ∂u/∂(gradient) applied to ones, where J is a P times a symmetric matrix and all P > 0; else None."""
        inner: Any = self.gradient if self._edges is None else self._edges[1]
        if inner is None or len(self.inputs) > 1 or (isinstance(inner, Tensor) and not inner.requires_grad):
            return None
        if not self._attached:
            return None
        ones = torch.ones_like(self.residual)
        (rates,) = torch.autograd.grad([self._root], [inner], [ones], retain_graph=True, allow_unused=True)
        if rates is None or not bool((rates > 0.0).all()) or not bool(rates.isfinite().all()):
            return None
        return rates

    def size(self) -> Tensor:
        """|w|."""
        return vector_norm(self.inputs[0]) if self.norm is None else self.norm

    @property
    def _root(self) -> Any:
        """F, or its place in the graph."""
        return self.residual if self._edges is None else self._edges[0]

    @property
    def _attached(self) -> bool:
        """Whether F depends on anything."""
        return self._edges is not None or self.residual.requires_grad

    def _pull(self, vector: Tensor, inputs: list[Tensor], *, retain_graph: bool = True) -> list[Tensor | None]:
        if not self._attached:
            return [None] * len(inputs)
        pulled = torch.autograd.grad([self._root], inputs, [vector], retain_graph=retain_graph, allow_unused=True)
        return self.group.mean(pulled)

    def _push(self, dummy: Tensor, pulled: list[Tensor | None], directions: list[Tensor]) -> Tensor:
        (pushed,) = self.group.mean([_push(dummy, pulled, directions)])
        return pushed

    def _pulled_back(self) -> tuple[Tensor, list[Tensor | None]]:
        """(u, [Jᵀu, Bᵀu] with the graph in u): made once."""
        if self._pulled is None:
            dummy = torch.zeros_like(self.residual, requires_grad=True)
            inputs = [*self.inputs, *self.hparams]
            pulled = torch.autograd.grad([self._root], inputs, [dummy], create_graph=True, allow_unused=True)
            self._pulled = dummy, list(pulled)
        return self._pulled


def _push(dummy: Tensor, pulled: list[Tensor | None], directions: list[Tensor]) -> Tensor:
    rows = [(p, d) for p, d in zip(pulled, directions, strict=True) if p is not None and p.requires_grad]
    if not rows:
        return torch.zeros_like(dummy)
    outputs, seeds = [p for p, _ in rows], [d.reshape(p.shape) for p, d in rows]
    (pushed,) = torch.autograd.grad(outputs, dummy, seeds, retain_graph=True, allow_unused=True)
    return torch.zeros_like(dummy) if pushed is None else pushed


def _joined(parts: list[Tensor | None], like: list[Tensor]) -> Tensor:
    return torch.cat([torch.zeros_like(x) if p is None else p for p, x in zip(parts, like, strict=True)], dim=-1)


def scalar_loss(loss: Loss, level: str, *args: Any) -> Tensor:
    """loss(*args), refused by name unless it is one real floating-point number."""
    value = loss(*args)
    if not isinstance(value, Tensor):
        raise NonScalarLoss(
            f"{level} returned {type(value).__name__}, limit: a 0-d floating-point tensor. "
            "Remedy: return the tensor itself."
        )
    if value.dim() or not value.is_floating_point():
        raise NonScalarLoss(
            f"{level} returned shape {tuple(value.shape)} of {value.dtype}, limit: shape () of a real floating type. "
            "Remedy: take .mean() or .sum()."
        )
    return value


def gradient(loss: Tensor, params: list[Tensor]) -> list[Tensor]:
    """∂loss/∂params without a graph; a param that the loss does not use has a zero gradient."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    return list(torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True))


def gradient_with_graph(loss: Tensor, params: Tensor) -> Tensor:
    """∂loss/∂params for params in one vector, itself differentiable."""
    if not loss.requires_grad:
        return torch.zeros_like(params)
    (slope,) = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True, materialize_grads=True)
    return slope


def functional_optimizer(inner: Any, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a functional rule."""
    return functional_rule(inner.optimizer(hparams), "WeightUpdate.optimizer returned")


def functional_rule(rule: Any, title: str) -> Any:
    """The rule itself, refused unless it is a functional one; title begins the message."""
    if isinstance(rule, torch.optim.Optimizer) or not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"{title} {type(rule).__name__}, which steps in place; limit: an object with "
            "init(params) and update(grads, state, params). Remedy: use nestgrad_torch.optim.sgd."
        )
    return rule


@dataclass(frozen=True, slots=True)
class Place:
    """Where F is to be linearised.

    shape: a vector -> params as losses and maps receive them; plain: a vector -> params as a tree of tensors.
    weights: the graph's leaf. hparams: the values, a tree; leaves: the graph's leaves that they came from.
    module: the nn.Module whose params they are, for names in errors. group: the processes that hold them. joint: what
    the leaf stands for, where it may hold no values.
    """

    shape: Callable[[Tensor], Any]
    plain: Callable[[Tensor], Any]
    weights: Tensor
    hparams: Any
    leaves: list[Tensor]
    module: nn.Module | None = None
    group: Group = ALONE
    joint: Joint | None = None

    def still(self) -> Any:
        """The params as losses receive them, without a graph."""
        return self.shape(self.weights.detach()) if self.joint is None else self.joint.still()

    def in_one(self) -> Tensor | None:
        """The leaf where it holds the values of the weights."""
        return self.weights if self.joint is None else self.joint.in_one()

    def lean(self) -> AbstractContextManager[Any]:
        """For the inner loss's graph to hold little, where the params are large."""
        return lean_squares() if self.in_one() is None else nullcontext()

    def require_unchanged(self) -> None:
        """Raise InvalidInput where a loss has written to params that are used where they are."""
        if self.joint is not None:
            self.joint.require_unchanged()

    def norm(self) -> Tensor | None:
        """|w| where the leaf may not hold it."""
        return None if self.joint is None else self.joint.norm()


def linearize(inner: Any, place: Place, batch: Any, opt_state: Any, *, slope: Tensor | None = None) -> Linearization:
    """F for any inner problem; slope is the inner loss's gradient where it was taken already, with its graph.

    Minimize: F = ∇_w L_in. WeightUpdate: F = u, the optimizer state held constant or carried along. FixedPoint:
    F = w - map. Root: F = residual. ProximalGradient: F = w - prox(w - γ∇loss, γ).
    """
    if isinstance(inner, (FixedPoint, Root)):
        return _of_map(inner, place, batch)
    if slope is None:
        with place.lean():
            loss = scalar_loss(inner.loss, "inner loss", place.shape(place.weights), place.hparams, batch)
        place.require_unchanged()
        require_twice_differentiable(loss, place.module)
        slope = place.group.share(gradient_with_graph(loss, place.weights))
    if isinstance(inner, Minimize):
        inputs = [place.weights]
        return Linearization(inputs, place.leaves, slope, symmetric=True, norm=place.norm(), group=place.group)
    if isinstance(inner, WeightUpdate):
        return _of_update(inner, place, slope, opt_state)
    return _of_proximal_step(inner, place, slope)


def _of_map(inner: FixedPoint | Root, place: Place, batch: Any) -> Linearization:
    weights = place.weights
    level, function = ("map", inner.map) if isinstance(inner, FixedPoint) else ("residual", inner.residual)
    value = like_params(level, function(place.shape(weights), place.hparams, batch), place.plain(weights))
    value = place.group.share(value)
    residual = value if isinstance(inner, Root) else weights - value
    return Linearization([weights], place.leaves, residual, symmetric=False, group=place.group)


def like_params(level: str, value: Any, params: Any) -> Tensor:
    """The entries of a tree shaped like params, in one vector; refused by name where it is not so shaped."""
    (leaves,) = tree.matched(params, value)
    for (name, param), leaf in zip(tree.named_leaves(params).items(), leaves, strict=True):
        found = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
        if found != tuple(param.shape):
            raise InvalidInput(
                f"{level} returned {found} for params[{name!r}], limit: shape {tuple(param.shape)}. "
                "Remedy: return a tree shaped like params."
            )
        if leaf.dtype != param.dtype:
            raise DtypeMismatch(
                f"{level} returned {leaf.dtype} for params[{name!r}], limit: {param.dtype}. Remedy: .to({param.dtype})."
            )
    return flat(leaves)


def _of_proximal_step(inner: ProximalGradient, place: Place, slope: Tensor) -> Linearization:
    weights = place.weights
    arrived = torch.sub(weights, slope, alpha=inner.step_size)
    proximal = inner.prox(place.hparams)
    moved = like_params("prox", proximal(place.plain(arrived), inner.step_size), place.plain(weights))
    kink = None
    if hasattr(proximal, "kink_distance"):
        with torch.no_grad():
            kink = torch.as_tensor(proximal.kink_distance(place.plain(arrived.detach()), inner.step_size))
    return Linearization([weights], place.leaves, weights - moved, symmetric=False, kink=kink, group=place.group)


def fresh_state(rule: Any, params: Callable[[], Any], opt_state: Any) -> Any:
    """The optimizer state given, or that of `init`, cut off from every graph."""
    state = rule.init(params()) if opt_state is None else opt_state
    return tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)


def is_carried(leaf: Any) -> bool:
    """Whether a leaf of an optimizer state is part of what is differentiated."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _of_update(inner: WeightUpdate, place: Place, slope: Tensor, opt_state: Any) -> Linearization:
    rule, weights = functional_optimizer(inner, place.hparams), place.in_one()
    state = fresh_state(rule, place.still, opt_state)
    if inner.carry == "weights_and_state":
        return _of_whole_step(rule, place, slope, state)
    in_one = rule.flat_state(state) if hasattr(rule, "flat_state") and weights is not None else None
    if in_one is not None:
        moves, _ = rule.update(slope, in_one, weights)
    else:
        shaped = place.shape(place.weights)
        updates, _ = rule.update(place.shape(slope), state, shaped)
        moves = flat(tree.matched(shaped, updates)[0])
    return Linearization(
        [place.weights],
        place.leaves,
        -moves,
        symmetric=False,
        gradient=slope,
        norm=place.norm(),
        group=place.group,
    )


def _of_whole_step(rule: Any, place: Place, slope: Tensor, state: Any) -> Linearization:
    """F = (u, z - z'), z the floating leaves of the optimizer state and z' those after the step."""
    weights, leaves = place.weights, tree.leaves(state)
    floating = [leaf for leaf in leaves if is_carried(leaf)]
    carried = flat(floating).requires_grad_() if floating else None
    views = iter([] if carried is None else split(carried, floating))
    state = tree.unflatten(state, [next(views) if is_carried(leaf) else leaf for leaf in leaves])
    shaped = place.shape(weights)
    updates, after = rule.update(place.shape(slope), state, shaped)
    moves = flat(tree.matched(shaped, updates)[0])
    group = place.group
    if carried is None:
        return Linearization([weights], place.leaves, -moves, symmetric=False, norm=place.norm(), group=group)
    arrived = flat([leaf for leaf in tree.matched(state, after)[0] if is_carried(leaf)])
    residual = torch.cat([-moves, carried - arrived])
    return Linearization(
        [weights, carried],
        place.leaves,
        residual,
        symmetric=False,
        norm=place.norm(),
        state_leaves=floating,
        group=place.group,
    )
