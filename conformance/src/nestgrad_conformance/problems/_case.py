"""One drawn problem: losses that hold no numbers, and every number as a NumPy tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nestgrad import BilevelProblem, FixedPoint, Inner, Minimize, ProximalGradient, Root, WeightUpdate, tree
from nestgrad_conformance.harness import Harness

Kind = Literal["minimize", "update", "update with state", "fixed point", "root", "proximal", "reversible"]


RATE = 0.3
"""The learning rate of an update whose hyperparameters hold none."""


@dataclass(frozen=True)
class SGDFrom:
    """An optimizer of hparams: sgd(h["lr"], h["momentum"], h["weight_decay"]); constants RATE, 0, 0 where absent."""

    make: Callable[[Any, Any, Any], Any]

    def __call__(self, hparams: Any) -> Any:
        return self.make(hparams.get("lr", RATE), hparams.get("momentum", 0.0), hparams.get("weight_decay", 0.0))


@dataclass(frozen=True)
class ReversibleFrom:
    """An optimizer of hparams: reversible_sgd(h["lr"], h["momentum"])."""

    make: Callable[[Any, Any], Any]

    def __call__(self, hparams: Any) -> Any:
        return self.make(hparams["lr"], hparams["momentum"])


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem to put to any backend.

    inner_loss, outer_loss: classes made with a namespace, so that equal problems compare and hash equal; of a fixed
    point or a root, inner_loss is the map or the residual. params, hparams and the batches: NumPy trees. kind: the
    inner problem; "update" is a WeightUpdate by SGDFrom, "update with state" carries its state, "reversible" is one by
    ReversibleFrom. warm_grads: gradients fed to the optimizer once, to give it a state that is not zero. prox: made
    with the backend's module of proximal maps, a function of hparams; step_size and kink_tol go with it.
    """

    inner_loss: Callable[[Any], Any]
    outer_loss: Callable[[Any], Any]
    params: Any
    hparams: Any
    inner_batch: Any
    outer_batch: Any
    kind: Kind = "minimize"
    warm_grads: Any = None
    prox: Callable[[Any], Callable[[Any], Any]] | None = None
    step_size: float = 1.0
    kink_tol: float = 1e-6

    def with_(self, **changes: Any) -> Case:
        """The same case with some fields changed."""
        return replace(self, **changes)

    def rounded(self, dtype: str) -> Case:
        """The case with every number rounded to the dtype, so that the reference sees what the backend sees."""
        fields = ("params", "hparams", "inner_batch", "outer_batch", "warm_grads")
        return replace(self, **{name: _cast(getattr(self, name), dtype) for name in fields})

    def problem(self, harness: Harness) -> BilevelProblem:
        """The problem as that backend takes it."""
        return BilevelProblem(self.inner(harness), self.outer_loss(harness.xp))

    def inner(self, harness: Harness) -> Inner:
        """The inner problem as that backend takes it."""
        function, backend = self.inner_loss(harness.xp), harness.backend
        if self.kind == "minimize":
            return Minimize(function)
        if self.kind == "fixed point":
            return FixedPoint(function)
        if self.kind == "root":
            return Root(function)
        if self.kind == "proximal":
            assert self.prox is not None
            maps: Any = backend
            return ProximalGradient(function, self.prox(maps.prox), self.step_size, self.kink_tol)
        if self.kind == "reversible":
            assert harness.reversible is not None
            return WeightUpdate(function, ReversibleFrom(harness.reversible))
        assert harness.sgd is not None
        carry = "weights" if self.kind == "update" else "weights_and_state"
        return WeightUpdate(function, SGDFrom(harness.sgd), carry)

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
        array = np.asarray(x)
        return array.astype(dtype).astype(np.float64) if array.dtype.kind == "f" else array

    return tree.map(cast, values)
