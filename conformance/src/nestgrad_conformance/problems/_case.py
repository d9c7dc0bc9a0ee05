"""One drawn problem: losses that hold no numbers, and every number as a NumPy tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, Loss, Minimize, WeightUpdate, tree
from nestgrad_conformance.harness import Harness


@dataclass(frozen=True)
class SGDFrom:
    """An optimizer of hparams: sgd(h["lr"], h["momentum"], h["weight_decay"]), each a constant 0 where it is absent."""

    make: Callable[[Any, Any, Any], Any]

    def __call__(self, hparams: Any) -> Any:
        return self.make(hparams["lr"], hparams.get("momentum", 0.0), hparams.get("weight_decay", 0.0))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem to put to any backend.

    inner_loss, outer_loss: classes made with a namespace, so that equal problems compare and hash equal. params,
    hparams and the batches: NumPy trees. updated: whether the inner problem is a WeightUpdate by SGDFrom. warm_grads:
    gradients fed to the optimizer once, to give it a state that is not zero.
    """

    inner_loss: Callable[[Any], Loss]
    outer_loss: Callable[[Any], Loss]
    params: Any
    hparams: Any
    inner_batch: Any
    outer_batch: Any
    updated: bool = False
    warm_grads: Any = None

    def with_(self, **changes: Any) -> Case:
        """The same case with some fields changed."""
        return replace(self, **changes)

    def rounded(self, dtype: str) -> Case:
        """The case with every number rounded to the dtype, so that the reference sees what the backend sees."""
        fields = ("params", "hparams", "inner_batch", "outer_batch", "warm_grads")
        return replace(self, **{name: _cast(getattr(self, name), dtype) for name in fields})

    def problem(self, harness: Harness) -> BilevelProblem:
        """The problem as that backend takes it."""
        loss, outer = self.inner_loss(harness.xp), self.outer_loss(harness.xp)
        if not self.updated:
            return BilevelProblem(Minimize(loss), outer)
        assert harness.sgd is not None
        return BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), outer)

    def opt_state(self, harness: Harness, arrays: Callable[[Any], Any]) -> Any:
        """The optimizer's state after one update by warm_grads; None when there are none."""
        if self.warm_grads is None:
            return None
        assert harness.sgd is not None
        rule = SGDFrom(harness.sgd)(arrays(self.hparams))
        params = arrays(self.params)
        _, state = rule.update(arrays(self.warm_grads), rule.init(params), params)
        return state


def _cast(values: Any, dtype: str) -> Any:
    def cast(x: np.ndarray) -> np.ndarray:
        return np.asarray(x, dtype).astype(np.float64)

    return tree.map(cast, values)
