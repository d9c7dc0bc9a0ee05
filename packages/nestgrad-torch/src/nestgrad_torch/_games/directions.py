"""Each direction's rule: nestgrad._games.directions has the definitions."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    LOLA,
    SOS,
    CompetitiveGradient,
    Consensus,
    Extragradient,
    GameDirection,
    Implicit,
    LookAhead,
    NonFinite,
    Rules,
    Simultaneous,
    Stats,
    Status,
    SymplecticAdjustment,
    error_for,
)
from nestgrad_torch._games.competitive import Competitive, as_gmres
from nestgrad_torch._games.point import Linear, Point, gradient_of
from nestgrad_torch._second_order import second_order
from nestgrad_torch._solvers import Solve


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A direction and what it was made of, as vectors; solve: its solver's answer and the norm of its right side."""

    losses: list[Tensor]
    gradient: Tensor
    direction: Tensor
    products: int = 0
    solve: tuple[Solve, float] | None = None


DIRECTIONS: Rules[[Point], Found] = Rules("torch")
"""rule(spec, point): the direction at the point."""


def found_at(spec: Any, point: Point, *, throw: bool) -> Found:
    """The direction; with throw, the error of one that is not finite or of a solve that failed."""
    first = isinstance(spec, (Simultaneous, Extragradient)) and not point.attached
    with contextlib.nullcontext() if first else second_order(None):
        found = DIRECTIONS(spec, point)
    if throw:
        require_finite(point, found)
        require_solved(spec, found)
    return found


def as_result(point: Point, found: Found) -> GameDirection:
    """The same, as trees like players."""
    return GameDirection(
        losses=dict(zip(point.names, found.losses, strict=True)),
        gradient=point.by_name(found.gradient),
        direction=point.by_name(found.direction),
        products=found.products,
    )


def require_finite(point: Point, found: Found) -> None:
    """Raise NonFinite naming the first player whose gradient is not finite, or else whose direction is not."""
    kinds = ("gradient", "direction")
    parts = [part for vector in (found.gradient, found.direction) for part in point.split(vector)]
    odd = torch.stack([(~part.isfinite()).sum() for part in parts]).tolist()
    for place, count in enumerate(odd):
        if count:
            kind, which = kinds[place // len(point.names)], place % len(point.names)
            raise NonFinite(
                f"player {point.names[which]!r}: {count} of {parts[place].numel()} entries of its {kind} are not "
                "finite, limit 0. Remedy: lower the learning rate or inspect the batch; players are unchanged.",
                Status.NONFINITE,
            )


def require_solved(spec: Any, found: Found) -> None:
    """Raise the error of a solve that failed."""
    if found.solve is None or found.solve[0].status.ok:
        return
    solve, norm = found.solve
    stats = Stats(
        residual_norm=solve.residual_norm,
        rhs_norm=norm,
        steps=solve.steps,
        products=solve.products,
        curvature=solve.curvature,
        eps=torch.finfo(found.gradient.dtype).eps,
    )
    raise error_for(solve.status, Implicit(solver=as_gmres(spec)), stats, where=str(spec))


@DIRECTIONS.register(Simultaneous)
def _simultaneous(spec: Simultaneous, point: Point) -> Found:
    losses, gradient = point.slopes()
    return Found(losses=losses, gradient=gradient, direction=gradient)


@DIRECTIONS.register(Extragradient)
def _extragradient(spec: Extragradient, point: Point) -> Found:
    losses, gradient = point.slopes()
    ahead = point.by_name(torch.sub(point.vector(), gradient, alpha=spec.step_size))
    _, direction = Point(point.game, ahead, point.batch, audit=False, attached=point.attached).slopes()
    return Found(losses=losses, gradient=gradient, direction=direction)


@DIRECTIONS.register(Consensus)
def _consensus(spec: Consensus, point: Point) -> Found:
    linear = Linear(point, own=True)
    g = linear.gradient
    direction = torch.add(g, linear.pull(g), alpha=spec.weight)
    return Found(losses=linear.losses, gradient=g, direction=direction, products=1)


@DIRECTIONS.register(SymplecticAdjustment)
def _symplectic(spec: SymplecticAdjustment, point: Point) -> Found:
    linear = Linear(point)
    g = linear.gradient
    pulled = linear.pull(g)
    turned = (pulled - linear.push(g)) / 2.0
    sign = torch.sign(g.dot(pulled) * turned.dot(pulled) / g.numel() + 0.1) if spec.align else 1.0
    direction = g + spec.weight * sign * turned
    return Found(losses=linear.losses, gradient=g, direction=direction, products=2)


@DIRECTIONS.register(LookAhead)
def _look_ahead(spec: LookAhead, point: Point) -> Found:
    linear = Linear(point)
    g = linear.gradient
    direction = torch.sub(g, linear.push_others(g), alpha=spec.look_ahead)
    return Found(losses=linear.losses, gradient=g, direction=direction, products=1)


@DIRECTIONS.register(LOLA)
def _lola(spec: LOLA, point: Point) -> Found:
    if spec.first_order:
        linear = Linear(point)
        g = linear.gradient
        direction = torch.sub(g, linear.push_others(g) + linear.shaping(), alpha=spec.look_ahead)
        return Found(losses=linear.losses, gradient=g, direction=direction, products=2)
    linear, rows = Linear(point, own=True), list[Tensor]()
    moved = [x - spec.look_ahead * g for x, g in zip(point.split(point.vector()), linear.own, strict=True)]
    for i, leaf in enumerate(point.leaves):
        ahead = [leaf if j == i else there for j, there in enumerate(moved)]
        rows.append(gradient_of(point.loss(i, ahead), leaf, keep=True, graph=point.attached))
    return Found(losses=linear.losses, gradient=linear.gradient, direction=torch.cat(rows))


@DIRECTIONS.register(SOS)
def _stable(spec: SOS, point: Point) -> Found:
    linear = Linear(point)
    g = linear.gradient
    ahead = torch.sub(g, linear.push_others(g), alpha=spec.look_ahead)
    shaping = -spec.look_ahead * linear.shaping()
    along, square = shaping.dot(ahead), g.dot(g)
    against = along < 0.0
    most = -spec.a * ahead.dot(ahead) / torch.where(against, along, -1.0)
    first = torch.where(against, most.clamp(max=1.0), 1.0)
    second = torch.where(square.sqrt() < spec.b, square, 1.0)
    direction = ahead + torch.minimum(first, second) * shaping
    return Found(losses=linear.losses, gradient=g, direction=direction, products=2)


@DIRECTIONS.register(CompetitiveGradient)
def _competitive(spec: CompetitiveGradient, point: Point) -> Found:
    linear = Linear(point)
    system, g = Competitive(spec, linear), linear.gradient
    solve, norm = system.solve(g.detach())
    direction = system.attached(solve.solution, g, point.leaves) if point.attached else solve.solution
    return Found(losses=linear.losses, gradient=g, direction=direction, products=solve.products, solve=(solve, norm))
