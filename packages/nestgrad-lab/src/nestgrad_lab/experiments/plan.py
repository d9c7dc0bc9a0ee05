"""What a backend is asked for: the runs of one algorithm from many starts, advanced together."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nestgrad import Space
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.experiments.algorithms import Algorithm
from nestgrad_lab.experiments.draws import Start
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.hyperparameters import SPACES
from nestgrad_lab.models import Weights
from nestgrad_lab.networks import Network

DESCENT_RATE = 1e-3
"""The rate of "Baydin" in log10 of the learning rate, which is not in the paper but in its code."""
Values = dict[str, Array]
"""Natural hyperparameters, (runs,) each; of a hyperparameter with a value for each weight, its geometric mean."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the runs need to know.

    train, valid, test: normalised rows. train_rows, valid_rows, other_rows: which of them a step sees; other_rows are
    those of training rows that "Baydin" takes its second gradient on. clip: the largest norm of a run's gradient, a
    longer one is shortened to it before the optimizer sees it; None for as it is.
    """

    algorithm: Algorithm
    network: Network
    task: Task
    dtype: str
    device: str
    starts: tuple[Start, ...]
    train: Part
    valid: Part
    test: Part
    train_rows: Rows
    valid_rows: Rows
    other_rows: Rows
    clip: float | None = None

    @property
    def natural(self) -> dict[str, Any]:
        """The starts' hyperparameters with a leading axis of runs; one with a value for each weight is a tree."""
        found: dict[str, Any] = {}
        for name in self.algorithm.settings:
            values = np.array([start.values[name] for start in self.starts], self.dtype)
            if name in self.algorithm.per_weight:
                shapes = {key: value.shape for key, value in self.starts[0].weights.items()}
                found[name] = {
                    key: np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (len(values), *shape)).copy()
                    for key, shape in shapes.items()
                }
            else:
                found[name] = values
        return found

    def spaces(self, put: Callable[[Array], Any], k: int = 0) -> dict[str, Any]:
        """Where each hyperparameter of run k lives and starts; put: makes an array of the backend's."""
        found: dict[str, Any] = {}
        for name in self.algorithm.settings:
            space: Space = SPACES[self.algorithm.inner][name].space
            start = self.starts[k]
            if name in self.algorithm.per_weight:
                own = {key: np.full(w.shape, start.values[name], self.dtype) for key, w in start.weights.items()}
                found[name] = {key: space.starting_at(put(value)) for key, value in own.items()}
            else:
                found[name] = space.starting_at(start.values[name])
        return found

    @property
    def weights(self) -> Weights:
        """The starts' weights with a leading axis of runs."""
        names = self.starts[0].weights
        return {name: np.stack([start.weights[name] for start in self.starts]) for name in names}

    @property
    def factors(self) -> Array:
        """The starts' factors of the learning rate, (runs,)."""
        return np.array([start.factor for start in self.starts], self.dtype)


class Runs(Protocol):
    """The runs of a plan, all at the same step."""

    def advance(self, steps: int) -> None:
        """Train so many steps, a multiple of the algorithm's interval."""
        ...

    def losses(self) -> dict[str, Array]:
        """The loss on all validation rows, {"validation": (runs,)}, and on all test rows, {"test": (runs,)}, now."""
        ...

    def values(self) -> Values:
        """The hyperparameters now."""
        ...

    def weights(self) -> Weights:
        """The weights now, with a leading axis of runs."""
        ...

    def snapshot(self) -> dict[str, Array]:
        """All that there is to know to go on, bit for bit."""
        ...

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from a snapshot of the same plan."""
        ...


class ShiftableRuns(Runs, Protocol):
    """Runs whose hyperparameters can be moved from outside."""

    def shift(self, by: Mapping[str, float]) -> None:
        """Move the unconstrained leaves of these hyperparameters, in all runs."""
        ...


def begin_runs(backend: str, plan: Plan) -> Runs:
    """The runs of a plan before their first step."""
    return importlib.import_module(f"nestgrad_lab.experiments.{backend}_runs").begin(plan)


def final_losses(backend: str, plan: Plan, weights: Weights) -> dict[str, Array]:
    """{"validation": loss, "test": loss, "accuracy": on test rows} of weights with a leading axis of runs: (runs,).

    By the backend, in the plan's dtype, for networks other than the MLP.
    """
    return importlib.import_module(f"nestgrad_lab.experiments.{backend}_runs").final_losses(plan, weights)


def geometric_mean(tree: Mapping[str, Array]) -> Array:
    """Of a positive value for each weight, over the weights of each run."""
    flat = np.concatenate([value.reshape(len(value), -1) for value in tree.values()], axis=1)
    with np.errstate(all="ignore"):
        return np.exp(np.log(flat.astype(np.float64)).mean(axis=1))


def numbers_of(values: Mapping[str, Any]) -> Values:
    """(runs,) of each hyperparameter."""
    return {
        name: geometric_mean(value) if isinstance(value, Mapping) else np.asarray(value, np.float64)
        for name, value in values.items()
    }


def require_same(arrays: Mapping[str, Array], expected: Sequence[str]) -> None:
    """Raise ValueError unless a snapshot holds exactly these names."""
    if sorted(arrays) != sorted(expected):
        raise ValueError(f"a snapshot of other runs: {sorted(set(arrays) ^ set(expected))[:3]}")
