"""The units of an experiment's work: one algorithm from one block of starts on one data set, each with checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestgrad import NestgradWarning
from nestgrad_lab.data import Dataset, load
from nestgrad_lab.data.dataset import Array, resplit
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.errors import CheckpointCorrupt
from nestgrad_lab.experiments.algorithms import Algorithm
from nestgrad_lab.experiments.draws import draw_starts
from nestgrad_lab.experiments.plan import Plan, Runs, begin_runs
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.experiments.spec import DataChoice, Experiment
from nestgrad_lab.models import mean_loss, predict, test_score, validation_loss
from nestgrad_lab.storage.checkpoints import Checkpoint, Checkpoints
from nestgrad_lab.threads import one_thread

LOOKS = 400
"""Losses are looked at about so often in a run, at the ends of intervals."""
SECONDS = 5.0
"""Between two checkpoints, at least."""
Progress = Callable[[int], bool]
"""Told how many steps more all runs of a cell have taken; answers whether to stop."""


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
        return math.ceil(self.steps / LOOKS / self.rule.every) * self.rule.every

    def fingerprint(self) -> str:
        """SHA-256 of all that decides its numbers."""
        one = self.experiment
        settings = (one.steps, one.batch, one.hidden, one.seed, one.dtype, one.backend, self.device, LOOKS)
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


def result_of(cell: Cell, folder: Path) -> dict[str, Array] | None:
    """The arrays of a finished cell, None where it is not finished."""
    found = _newest(cell, folder)
    return found.arrays if found is not None and found.about["finished"] else None


def run_cell(cell: Cell, folder: Path, progress: Progress) -> bool:
    """Take it from where it stands to its end, or to where it is asked to stop; whether it is finished.

    folder: the cell's own. What is saved: at a checkpoint all that the runs need to go on, and what has been seen; at
    the end, by start: validation and test loss and hyperparameters, first and last, and what was seen on the way.
    """
    checkpoints, found = Checkpoints(folder), _newest(cell, folder, say=True)
    if found is not None and found.about["finished"]:
        progress(cell.steps * (cell.last - cell.first))
        return True
    if cell.rule.search in {"asha", "pbt"}:
        from nestgrad_lab.searches.populations import run_population  # noqa: PLC0415  (needs cells, and Ray)

        ends = run_population(cell, lambda: progress(0))
        if ends is None:
            return False
        checkpoints.save(cell.steps, ends, _about(cell, finished=True))
        progress(cell.steps * (cell.last - cell.first))
        return True
    data = choose(cell.data)
    with one_thread():
        runs = _begun(cell, data)
        seen = _Seen.begun(runs, data) if found is None else _Seen.restored(found.arrays)
        step = 0 if found is None else found.step
        if found is not None:
            runs.restore(
                {name.removeprefix("runs:"): v for name, v in found.arrays.items() if name.startswith("runs:")}
            )
            progress(step * (cell.last - cell.first))
        saved = time.monotonic()
        while step < cell.steps:
            stride = min(cell.stride, cell.steps - step)
            runs.advance(stride)
            step += stride
            seen.look(runs, step, data)
            stop = progress(stride * (cell.last - cell.first))
            if step < cell.steps and (stop or time.monotonic() - saved > SECONDS):
                arrays = {f"runs:{name}": value for name, value in runs.snapshot().items()}
                checkpoints.save(step, {**arrays, **seen.arrays()}, _about(cell, finished=False))
                saved = time.monotonic()
            if stop and step < cell.steps:
                return False
        checkpoints.save(step, {**ends_of(cell, data, runs), **seen.arrays()}, _about(cell, finished=True))
    return True


def _begun(cell: Cell, data: Dataset) -> Runs:
    """The cell's runs before their first step."""
    plan, one = plan_of(cell, data), cell.experiment
    if cell.rule.search == "bayesian":
        from nestgrad_lab.searches.bayesian import BayesianRuns  # noqa: PLC0415  (needs its extra)

        return BayesianRuns(plan, one.backend, cell.steps // cell.rule.trials, one.seed)
    return begin_runs(one.backend, plan)


def plan_of(cell: Cell, data: Dataset) -> Plan:
    """What the backend is asked for."""
    one, rule = cell.experiment, cell.rule
    train = data.merged if rule.merged else data.train
    starts = draw_starts(
        range(cell.first, cell.last),
        len(data.features),
        one.hidden,
        data.outputs,
        one.dtype,
        one.seed,
        rule.inner,
    )
    numbers = [start.number for start in starts]
    return Plan(
        algorithm=rule,
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
    )


def choose(choice: DataChoice) -> Dataset:
    """The data set in the split that is asked for."""
    return resplit(load(choice.name), choice.validation, choice.split)


class _Seen:
    """The losses and hyperparameters of all runs at every look, (looks, runs) each."""

    def __init__(self, steps: list[int], rows: dict[str, list[Array]]) -> None:
        self._steps, self._rows = steps, rows

    @classmethod
    def begun(cls, runs: Runs, data: Dataset) -> _Seen:
        """With a first look, before the first step."""
        seen = cls([], {})
        seen.look(runs, 0, data)
        return seen

    @classmethod
    def restored(cls, arrays: Mapping[str, Array]) -> _Seen:
        names = [name for name in arrays if name.startswith("seen:")]
        rows = {name.removeprefix("seen:"): list(arrays[name]) for name in names}
        steps = [int(step) for step in rows.pop("step")]
        return cls(steps, rows)

    def look(self, runs: Runs, step: int, data: Dataset) -> None:
        """Test losses of a regression are in the target's own units."""
        losses = runs.losses()
        if data.task == "regression":
            losses["test"] = losses["test"] * data.y_scale**2
        self._steps.append(step)
        for name, values in {**losses, **runs.values()}.items():
            self._rows.setdefault(name, []).append(np.array(values, np.float64))

    def arrays(self) -> dict[str, Array]:
        rows = {f"seen:{name}": np.stack(values) for name, values in self._rows.items()}
        return {"seen:step": np.array(self._steps, np.int64), **rows}


def ends_of(cell: Cell, data: Dataset, runs: Runs) -> dict[str, Array]:
    """By start, in float64 from the last weights: validation loss, test loss, and test accuracy where there is one."""
    weights = runs.weights()
    own = [{name: value[k] for name, value in weights.items()} for k in range(cell.last - cell.first)]
    score = [test_score(data, one) for one in own]
    found = {
        "start": np.arange(cell.first, cell.last),
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


def _about(cell: Cell, *, finished: bool) -> dict[str, Any]:
    return {"cell": cell.name, "fingerprint": cell.fingerprint(), "finished": finished}


def _newest(cell: Cell, folder: Path, *, say: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint of this very cell; what is damaged is computed again, from the one before.

    say: warn of what is damaged.
    """
    checkpoints, found = Checkpoints(folder), None
    with contextlib.suppress(CheckpointCorrupt):
        found = checkpoints.newest()
    if say:
        begins = "the cell begins anew" if found is None else f"it goes on from step {found.step}"
        for name, why in checkpoints.damaged.items():
            warnings.warn(f"{name} is passed over, and {begins}: {why}", NestgradWarning, stacklevel=3)
    if found is not None and found.about.get("fingerprint") != cell.fingerprint():
        return None
    return found


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
