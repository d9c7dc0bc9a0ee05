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
        self._leaves: list[Tensor] = []
        self._watched: list[Tensor] = []
        self._versions: list[int] = []
        self._values: list[Tensor] = []
        self._idle: HyperGradient | None = None

    def about(self, hparams: Any) -> tuple[Any, HyperGradient]:
        """The natural values of these leaves, in a tree of the caller's own, and the report of an idle step."""
        leaves = tree.leaves(hparams)
        if self._idle is None or not self._knows(leaves):
            with torch.inference_mode(mode=False), torch.no_grad():
                self._idle, self._values = _idle(hparams), tree.leaves(self._natural(hparams))
            self._leaves = leaves
            self._watched = [*leaves, *self._values, *tree.leaves(self._idle.total), self._idle.outer_loss]
            self._versions = _versions(self._watched)
        return tree.unflatten(hparams, self._values), self._idle

    def _knows(self, leaves: list[Tensor]) -> bool:
        same = len(leaves) == len(self._leaves) and all(map(operator.is_, leaves, self._leaves))
        return same and _versions(self._watched) == self._versions


def _versions(tensors: list[Tensor]) -> list[int]:
    """How often each tensor was changed in place: autograd's own count, which has no public name."""
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
