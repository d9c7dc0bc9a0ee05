"""Proximal maps: prox(params, step_size) -> params, each with its distance from the edge of the active set.

Strengths and bounds are a number, a 0-d tensor, or a tree shaped like params (each leaf 0-d, or of the param's shape);
where a threshold is 0 nothing is penalised. (Parikh and Boyd 2014, sec. 6.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, tree

__all__ = ["Box", "ElasticNet", "GroupLasso", "box", "elastic_net", "group_lasso", "lasso", "smoothed_abs"]


@dataclass(frozen=True, slots=True)
class ElasticNet:
    """z -> soft(z, γ l1) / (1 + γ l2), the prox of γ (l1 |w|₁ + ½ l2 |w|²), γ = step_size."""

    l1: Any
    l2: Any = 0.0

    def __call__(self, params: Any, step_size: float) -> Any:
        first, second = _spread(self.l1, params, "l1"), _spread(self.l2, params, "l2")
        rows = zip(tree.leaves(params), first, second, strict=True)
        return tree.unflatten(params, [_soft(z, step_size * a) / (1.0 + step_size * b) for z, a, b in rows])

    def kink_distance(self, params: Any, step_size: float) -> Tensor:
        """min | |z| / (γ l1) - 1 | over entries with a threshold above 0; inf where there is none."""
        rows = zip(tree.leaves(params), _spread(self.l1, params, "l1"), strict=True)
        return _least([_beside(z.abs(), step_size * a) for z, a in rows], tree.leaves(params)[0])


@dataclass(frozen=True, slots=True)
class GroupLasso:
    """z_g -> (1 - γλ/|z_g|)₊ z_g, a group being the entries along `axis` of a leaf; λ may differ by entry."""

    strength: Any
    axis: int = -1

    def __call__(self, params: Any, step_size: float) -> Any:
        rows = zip(tree.leaves(params), _spread(self.strength, params, "strength"), strict=True)
        return tree.unflatten(params, [self._shrunk(z, step_size * s) for z, s in rows])

    def kink_distance(self, params: Any, step_size: float) -> Tensor:
        """min | |z_g| / (γλ) - 1 | over groups with a threshold above 0; inf where there is none."""
        rows = zip(tree.leaves(params), _spread(self.strength, params, "strength"), strict=True)
        gaps = [_beside(self._norm(z), step_size * s) for z, s in rows]
        return _least(gaps, tree.leaves(params)[0])

    def _shrunk(self, z: Tensor, threshold: Any) -> Tensor:
        norm = self._norm(z)
        kept = norm > threshold
        # Divided by 1 where the group is gone, so that no derivative there is 0 times infinity.
        factor = 1.0 - threshold / torch.where(kept, norm, 1.0)
        return torch.where(kept, factor * z, torch.where(_as_tensor(threshold, z) > 0.0, 0.0 * z, z))

    def _norm(self, z: Tensor) -> Tensor:
        """|z_g| with the group's axis kept; its derivative at zero is zero."""
        if z.dim() == 0:
            return z.abs()
        squared = (z * z).sum(self.axis, keepdim=True)
        positive = squared > 0.0
        return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


@dataclass(frozen=True, slots=True)
class Box:
    """z -> min(max(z, low), high), entry by entry."""

    low: Any
    high: Any

    def __call__(self, params: Any, step_size: float) -> Any:
        rows = zip(tree.leaves(params), *self._ends(params), strict=True)
        return tree.unflatten(params, [_clipped(z, low, high) for z, low, high in rows])

    def kink_distance(self, params: Any, step_size: float) -> Tensor:
        """min(|z - low|, |z - high|) / (high - low) over all entries."""
        gaps = [
            torch.minimum((z - low).abs(), (z - high).abs()) / (high - low)
            for z, low, high in zip(tree.leaves(params), *self._ends(params), strict=True)
        ]
        return _least(gaps, tree.leaves(params)[0])

    def _ends(self, params: Any) -> tuple[list[Any], list[Any]]:
        return _spread(self.low, params, "low"), _spread(self.high, params, "high")


def lasso(strength: Any) -> ElasticNet:
    """The soft threshold: z -> sign(z) (|z| - γ strength)₊."""
    return ElasticNet(strength)


def elastic_net(l1: Any, l2: Any) -> ElasticNet:
    """The soft threshold at γ l1, divided by 1 + γ l2."""
    return ElasticNet(l1, l2)


def group_lasso(strength: Any, axis: int = -1) -> GroupLasso:
    """Whole groups, the entries along an axis of each leaf, are shrunk or set to zero."""
    return GroupLasso(strength, axis)


def box(low: Any, high: Any) -> Box:
    """The projection onto low ≤ w ≤ high."""
    return Box(low, high)


def smoothed_abs(x: Tensor, width: Any) -> Tensor:
    """√(x² + width²), which is |x| up to `width` and smooth."""
    return torch.sqrt(x * x + width * width)


def _soft(z: Tensor, threshold: Any) -> Tensor:
    """sign(z) (|z| - threshold)₊; with threshold 0 it is z, whose derivative is 1 at zero too."""
    limit = _as_tensor(threshold, z)
    outside = z.abs() > limit
    return torch.where(outside | (limit == 0.0), z - torch.sign(z) * limit, torch.zeros_like(z))


def _clipped(z: Tensor, low: Any, high: Any) -> Tensor:
    """The nearest point between the ends, differentiable in z inside and in an end where that is active."""
    bottom, top = (_as_tensor(end, z).expand_as(z) for end in (low, high))
    return torch.where(z <= bottom, bottom, torch.where(z >= top, top, z))


def _beside(size: Tensor, threshold: Any) -> Tensor:
    """| size / threshold - 1 |, inf where the threshold is 0."""
    limit = _as_tensor(threshold, size)
    return torch.where(limit > 0.0, (size / torch.where(limit > 0.0, limit, 1.0) - 1.0).abs(), math.inf)


def _least(gaps: list[Tensor], like: Tensor) -> Tensor:
    entries = [gap.reshape(-1) for gap in gaps if gap.numel()]
    return torch.cat(entries).min() if entries else like.new_full((), math.inf)


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _spread(setting: Any, params: Any, name: str) -> list[Any]:
    """The setting, one entry a leaf of params."""
    if isinstance(setting, (int, float)) or (isinstance(setting, Tensor) and setting.dim() == 0):
        return [setting] * len(tree.leaves(params))
    (spread,) = tree.matched(params, setting)
    for (path, param), value in zip(tree.named_leaves(params).items(), spread, strict=True):
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if shape and shape != tuple(param.shape):
            raise InvalidInput(
                f"prox {name}[{path!r}]: got shape {shape}, limit: () or {tuple(param.shape)}. "
                "Remedy: pass one number, or a tree shaped like params."
            )
    return spread
