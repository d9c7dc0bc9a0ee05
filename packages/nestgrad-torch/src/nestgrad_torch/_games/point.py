"""A point of a game: a leaf of a new graph for each player, the losses there, their first and second derivatives."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import Game, InvalidInput, UnsupportedModule, check_players, tree
from nestgrad_torch._derivatives import scalar_loss
from nestgrad_torch._second_order import require_twice_differentiable
from nestgrad_torch._tree import Joint, Params, check_matching, flat


class Point:
    """Players' params, checked; all vectors are over the players in the game's order, leaves in a tree's own order.

    audit: look at the batch, and at graphs for what would be wrong in silence. attached: what is found here stays in
    the players' own graph, to be differentiated as often as asked; else each player's leaf begins a new one.
    """

    def __init__(self, game: Game, players: Any, batch: Any, *, audit: bool = True, attached: bool = False) -> None:
        check_players(game, players)
        self.game, self.batch, self.audit, self.attached, self.names = game, batch, audit, attached, game.names
        ordered = {name: players[name] for name in self.names}
        _refuse_modules(ordered)
        self.whole = Params(ordered)
        _refuse_empty(ordered)
        if audit:
            check_matching(self.whole, batch=batch)
        self._parts = [Params(own) for own in ordered.values()]
        self._joints = [] if attached else [Joint(part) for part in self._parts]
        self.leaves = [_attached(part.leaves) for part in self._parts] if attached else [j.vector for j in self._joints]

    def vector(self) -> Tensor:
        """All values, without a graph unless attached; a copy."""
        return torch.cat(self.leaves) if self.attached else flat([leaf.detach() for leaf in self.whole.leaves])

    def split(self, vector: Tensor) -> list[Tensor]:
        """Each player's part of a vector."""
        return list(vector.split_with_sizes([leaf.numel() for leaf in self.leaves]))

    def by_name(self, vector: Tensor) -> Any:
        """A vector as a tree like players, of views."""
        return self.whole.plain(vector)

    def loss(self, which: int, vectors: Sequence[Tensor] | None = None) -> Tensor:
        """The loss of a player, at the leaves or where the vectors are."""
        vectors, name = self.leaves if vectors is None else vectors, self.names[which]
        shapes = self._parts if self.attached else self._joints
        players = {n: s.shape(v) for n, s, v in zip(self.names, shapes, vectors, strict=True)}
        value = scalar_loss(self.game.losses[name], f"losses[{name!r}]", players, self.batch)  # pyright: ignore[reportArgumentType]
        for joint in self._joints:
            joint.require_unchanged()
        return value

    def slope(self, which: int) -> tuple[Tensor, Tensor]:
        """(L_i, ∂L_i/∂ω_i), without a graph unless attached."""
        loss = self.loss(which)
        slope = gradient_of(loss, self.leaves[which], graph=self.attached)
        if self.attached and self.audit:
            _require_derivatives(loss, [slope])
        return loss.detach(), slope

    def slopes(self) -> tuple[list[Tensor], Tensor]:
        """(losses, ĝ), without a graph unless attached."""
        rows = [self.slope(which) for which in range(len(self.names))]
        return [loss for loss, _ in rows], torch.cat([slope for _, slope in rows])


def gradient_of(loss: Tensor, leaf: Tensor, *, keep: bool = False, graph: bool = False) -> Tensor:
    """∂ loss / ∂ leaf, zero where no path leads there; keep: the loss's graph, for others; graph: have one itself."""
    slope = None
    if loss.requires_grad:
        keep = keep or graph
        (slope,) = torch.autograd.grad(loss, leaf, retain_graph=keep, create_graph=graph, allow_unused=True)
    return leaf.new_zeros(leaf.shape) if slope is None else slope


class Linear:
    """The joint gradient at a point, linearised once: products with Ĝ and with its blocks off the diagonal, H_o.

    Products with rows of Ĝ come from the gradients of each loss in all params (H_i t is the derivative in ω_i of
    ⟨∂L_i/∂ω, t⟩); own: only each player's gradient in its own is there, for products with Ĝᵀ alone. At an attached
    point the gradient and the products have graphs too.
    """

    def __init__(self, point: Point, *, own: bool = False) -> None:
        self.point, self.losses, self.attached = point, list[Tensor](), point.attached
        self._table: list[dict[int, Tensor]] = []
        for i in range(len(point.names)):
            loss = point.loss(i)
            held = [i] if own else list(range(len(point.names)))
            slopes = _with_graph(loss, [point.leaves[j] for j in held])
            if point.audit:
                _require_derivatives(loss, slopes)
            self._table.append({j: slope for j, slope in zip(held, slopes, strict=True) if slope is not None})
            self.losses.append(loss.detach())
        self.own = [self._slope(i, i) for i in range(len(point.names))]
        gradient = torch.cat(self.own)
        self.gradient = gradient if point.attached else gradient.detach()

    def still(self) -> Linear:
        """The same, whose products have no graph."""
        other = copy.copy(self)
        other.attached = False
        return other

    def push(self, vector: Tensor) -> Tensor:
        """Ĝ vector."""
        return self._rows(lambda i: [(i, j) for j in self._all], self.point.split(vector))

    def pull(self, vector: Tensor) -> Tensor:
        """Ĝᵀ vector."""
        parts, leaves = self.point.split(vector), self.point.leaves
        rows = [(slope, part) for slope, part in zip(self.own, parts, strict=True) if slope.requires_grad]
        pulled: Sequence[Tensor | None] = [None] * len(leaves)
        if rows:
            outputs, seeds = zip(*rows, strict=True)
            pulled = self._pull(outputs, leaves, seeds)
        return torch.cat([x.new_zeros(x.shape) if p is None else p for x, p in zip(leaves, pulled, strict=True)])

    def push_others(self, vector: Tensor) -> Tensor:
        """H_o vector."""
        return self._rows(lambda i: [(i, j) for j in self._all if j != i], self.point.split(vector))

    def pull_others(self, vector: Tensor) -> Tensor:
        """H_oᵀ vector."""
        parts = self.point.split(vector)
        return torch.cat([self._row(i, [(self.own[j], parts[j]) for j in self._all if j != i]) for i in self._all])

    def shaping(self) -> Tensor:
        """χ: in row i, Σ_{j≠i} ∂/∂ω_i ⟨stop(∂L_i/∂ω_j), ∂L_j/∂ω_j⟩."""
        rows = ([(self.own[j], self._slope(i, j)) for j in self._all if j != i] for i in self._all)
        return torch.cat([self._row(i, row) for i, row in enumerate(rows)])

    @property
    def _all(self) -> range:
        return range(len(self.point.names))

    def _slope(self, i: int, j: int) -> Tensor:
        """∂L_i/∂ω_j."""
        leaf = self.point.leaves[j]
        return self._table[i].get(j, leaf.new_zeros(leaf.shape))

    def _rows(self, pairs: Any, parts: list[Tensor]) -> Tensor:
        """In row i, ∂/∂ω_i of the sum of ⟨∂L_a/∂ω_b, part b⟩ over the pairs (a, b) of i."""
        return torch.cat([self._row(i, [(self._slope(a, b), parts[b]) for a, b in pairs(i)]) for i in self._all])

    def _row(self, which: int, terms: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """∂/∂ω_which of the sum of ⟨slope, seed⟩."""
        leaf, rows = self.point.leaves[which], [(slope, seed) for slope, seed in terms if slope.requires_grad]
        pulled = None
        if rows:
            outputs, seeds = zip(*rows, strict=True)
            (pulled,) = self._pull(outputs, [leaf], seeds)
        return leaf.new_zeros(leaf.shape) if pulled is None else pulled

    def _pull(
        self, outputs: Sequence[Tensor], leaves: Sequence[Tensor], seeds: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The seeds stand for constants; at an attached point the product's own graph leads to them too."""
        if not self.attached:
            seeds = [seed.detach() for seed in seeds]
        return torch.autograd.grad(
            outputs, leaves, seeds, retain_graph=True, create_graph=self.attached, allow_unused=True
        )


def _with_graph(loss: Tensor, leaves: list[Tensor]) -> Sequence[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(leaves)
    return torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)


def _attached(leaves: list[Tensor]) -> Tensor:
    """All in one new vector of their graph, or of one that begins here."""
    vector = flat(leaves)
    return vector if vector.requires_grad else vector.requires_grad_()


def _require_derivatives(loss: Tensor, slopes: Iterable[Tensor | None]) -> None:
    """Refuse by name what torch would pass by without a word, in the graph of a loss or in those of its gradients."""
    for result in (loss, *slopes):
        if result is not None:
            require_twice_differentiable(result, None)


def _refuse_empty(players: dict[str, Any]) -> None:
    for name, own in players.items():
        if not any(leaf.numel() for leaf in tree.leaves(own)):
            raise InvalidInput(
                f"players[{name!r}]: 0 entries, limit: at least 1. Remedy: pass its params, or a game without it."
            )


def _refuse_modules(players: dict[str, Any]) -> None:
    for name, own in players.items():
        if isinstance(own, nn.Module):
            raise UnsupportedModule(
                f"players[{name!r}]: got the module {type(own).__name__}, limit: a tree of tensors. "
                "Remedy: pass dict(module.named_parameters()), and torch.func.functional_call(module, params, inputs) "
                "in the losses."
            )
