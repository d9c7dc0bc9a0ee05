"""The units of an experiment's work: one algorithm from one block of starts on one data set, each with checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nestgrad_lab.data import Dataset, load
from nestgrad_lab.data.dataset import Array, resplit, thinned
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.experiments.algorithms import Algorithm
from nestgrad_lab.experiments.draws import draw_starts
from nestgrad_lab.experiments.plan import Plan, Runs, final_losses
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.experiments.spec import DataChoice, Experiment
from nestgrad_lab.models import mean_loss, predict, test_score, validation_loss
from nestgrad_lab.networks import Mlp, network_for


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A block of starts of one algorithm on one data set."""

    experiment: Experiment
    data: DataChoice
    algorithm: str
    first: int
    last: int
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The name of its folder: one for each fingerprint, so that no checkpoint of other settings is in it."""
        words = f"{self.data.title} {self.algorithm} {self.first}-{self.last - 1} {self.fingerprint()[:8]}"
        return "".join(letter if letter.isalnum() else "-" for letter in words)

    @property
    def rule(self) -> Algorithm:
        """What is run."""
        return self.experiment.algorithm(self.algorithm)

    @property
    def steps(self) -> int:
        """The training steps: the experiment's, to the last whole interval, of each trial."""
        return self.experiment.steps // self.rule.every * self.rule.every * self.rule.trials

    @property
    def stride(self) -> int:
        """The steps between two looks."""
        return math.ceil(self.steps / self.experiment.looks / self.rule.every) * self.rule.every

    def fingerprint(self) -> str:
        """SHA-256 of all that decides its numbers."""
        one = self.experiment
        network = (one.network, one.sizes, one.clip)
        settings = (one.steps, one.batch, network, one.seed, one.dtype, one.backend, self.device, one.looks)
        return one.fingerprint(asdict(self.rule), asdict(self.data), settings, self.first, self.last, versions())


def cells_of(experiment: Experiment, device: str = "cpu") -> list[Cell]:
    """In the order of the tables; the blocks of an algorithm follow each other."""
    return [
        Cell(
            experiment=experiment,
            data=data,
            algorithm=name,
            first=first,
            last=min(first + experiment.block, experiment.starts),
            device=device,
        )
        for data in experiment.data
        for name in experiment.algorithms
        for first in range(0, experiment.starts, experiment.block)
    ]


def plan_of(cell: Cell, data: Dataset) -> Plan:
    """What the backend is asked for."""
    one, rule = cell.experiment, cell.rule
    train = data.merged if rule.merged else data.train
    network = network_for(one.network, one.sizes, data)
    starts = draw_starts(range(cell.first, cell.last), network, one.dtype, one.seed, rule.inner)
    numbers = [start.number for start in starts]
    return Plan(
        algorithm=rule,
        network=network,
        task=data.task,
        dtype=one.dtype,
        device=cell.device,
        starts=tuple(starts),
        train=train,
        valid=data.valid,
        test=data.test,
        train_rows=Rows(len(train), one.batch, [one.seed, 4], numbers),
        valid_rows=Rows(len(data.valid), one.batch, [one.seed, 5], numbers),
        other_rows=Rows(len(train), one.batch, [one.seed, 6], numbers),
        clip=one.clip,
    )


def choose(choice: DataChoice) -> Dataset:
    """The data set in the split that is asked for."""
    cut = {name: value for name in ("window", "vocabulary") if (value := getattr(choice, name)) is not None}
    return thinned(resplit(load(choice.name, **cut), choice.validation, choice.split), choice.held)


def ends_of(cell: Cell, data: Dataset, runs: Runs) -> dict[str, Array]:
    """By start, from the last weights: validation loss, test loss, and test accuracy where there is one.

    Of an MLP in float64 by NumPy, of other networks as the backend has them.
    """
    weights, numbers = runs.weights(), np.arange(cell.first, cell.last)
    plan = plan_of(cell, data)
    if not isinstance(plan.network, Mlp):
        found = final_losses(cell.experiment.backend, plan, weights)
        return {
            "start": numbers,
            "validation_loss": found["validation"],
            "test_loss": found["test"],
            "test_accuracy": found["accuracy"],
        }
    own = [{name: value[k] for name, value in weights.items()} for k in range(cell.last - cell.first)]
    score = [test_score(data, one) for one in own]
    found = {
        "start": numbers,
        "validation_loss": np.array([validation_loss(data, one) for one in own]),
        "test_loss": np.array(score),
    }
    if data.task == "classification":
        found["test_loss"] = np.array([_test_loss(data, one) for one in own])
        found["test_accuracy"] = np.array(score)
    return found


def _test_loss(data: Dataset, weights: Mapping[str, Array]) -> float:
    with np.errstate(all="ignore"):
        return mean_loss(data.task, predict(weights, data.test.x), data.test.y)


def rows_of(cell: Cell, arrays: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """One row a start: what it began and ended with, and its best test loss at any look."""
    values = cell.rule.settings
    for k, start in enumerate(arrays["start"]):
        track = arrays["seen:test"][:, k]
        yield {
            "data": cell.data.title,
            "algorithm": cell.algorithm,
            "start": int(start),
            "test_loss": float(arrays["test_loss"][k]),
            "validation_loss": float(arrays["validation_loss"][k]),
            **({"test_accuracy": float(arrays["test_accuracy"][k])} if "test_accuracy" in arrays else {}),
            "best_test_loss": float(np.nanmin(track)) if np.isfinite(track).any() else float("nan"),
            **{f"initial_{name}": float(arrays[f"seen:{name}"][0, k]) for name in values},
            **{f"final_{name}": float(arrays[f"seen:{name}"][-1, k]) for name in values},
        }
