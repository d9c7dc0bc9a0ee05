"""What a tuner remembers of the last step's leaves, so that steps between hyper steps need not compute it again."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import HyperGradient, Stats, Status, tree


class Recall:
    """The natural values and the idle report that belong to the leaves last seen.

    Tensors are recognised by identity and by version, so that one changed in place, be it a leaf or a remembered
    value, is computed afresh. Forgetting everything would change no result.
    """

    def __init__(self, natural: Callable[[Any], Any]) -> None:
        self._natural = natural
        self._leaves = _Watched([])
        self._values = _Watched([])
        self._nothing = _Watched([])
        self._idle: HyperGradient | None = None

    def about(self, hparams: Any) -> tuple[Any, HyperGradient]:
        """The natural values of these leaves, in a tree of the caller's own, and the report of an idle step."""
        leaves = tree.leaves(hparams)
        known = self._leaves.are(leaves) and self._values.unchanged()
        if not known:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._values = _Watched(tree.leaves(self._natural(hparams)))
            self._leaves = _Watched(leaves)
        if self._idle is None or not self._nothing.unchanged() or not (known or self._nothing.alike(leaves)):
            with torch.inference_mode(mode=False), torch.no_grad():
                self._idle = _idle(hparams)
            self._nothing = _Watched([*tree.leaves(self._idle.total), self._idle.outer_loss])
        return tree.unflatten(hparams, self._values.tensors), self._idle


class _Watched:
    """Tensors, and how often each had been changed in place when it was first seen: autograd's own count."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self._versions = _versions(tensors)

    def unchanged(self) -> bool:
        """Whether none was changed in place since."""
        return _versions(self.tensors) == self._versions

    def are(self, tensors: list[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged; never true of none."""
        same = bool(tensors) and len(tensors) == len(self.tensors) and all(map(operator.is_, tensors, self.tensors))
        return same and self.unchanged()

    def alike(self, tensors: list[Tensor]) -> bool:
        """Whether the first of these have the shapes, dtypes and devices of the given tensors."""
        rows = zip(self.tensors, tensors, strict=False)
        return all(a.shape == b.shape and a.dtype == b.dtype and a.device == b.device for a, b in rows)


def _versions(tensors: list[Tensor]) -> list[int]:
    """Autograd's count of changes in place, which has no public name."""
    return [tensor._version for tensor in tensors]  # noqa: SLF001


def _idle(hparams: Any) -> HyperGradient:
    """What info holds on a step without a hyper step."""
    zeros = tree.map(torch.zeros_like, hparams)
    nan = tree.leaves(zeros)[0].new_full((), math.nan)
    stats = Stats(
        residual_norm=math.nan,
        rhs_norm=math.nan,
        steps=0,
        products=0,
        inner_optimality=math.nan,
        contraction=math.nan,
        curvature=math.nan,
        asymmetry=math.nan,
        eps=torch.finfo(nan.dtype).eps,
    )
    return HyperGradient(total=zeros, direct=zeros, indirect=zeros, outer_loss=nan, status=Status.IDLE, stats=stats)
