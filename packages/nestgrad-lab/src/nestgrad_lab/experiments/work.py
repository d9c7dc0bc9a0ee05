"""Working on a cell: from its last checkpoint to its end, or to where it is asked to stop."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nestgrad import NestgradWarning
from nestgrad_lab.data import Dataset
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import CheckpointCorrupt
from nestgrad_lab.experiments.cells import Cell, choose, ends_of, plan_of
from nestgrad_lab.experiments.plan import Runs, begin_runs
from nestgrad_lab.searches.bayesian import BayesianRuns
from nestgrad_lab.searches.populations import run_population
from nestgrad_lab.storage.checkpoints import Checkpoint, Checkpoints
from nestgrad_lab.threads import one_thread

SECONDS = 5.0
"""Between two checkpoints, at least."""
Progress = Callable[[int], bool]
"""Told how many steps more all runs of a cell have taken; answers whether to stop."""


def run_cell(cell: Cell, folder: Path, progress: Progress) -> bool:
    """Take it from where it stands to its end, or to where it is asked to stop; whether it is finished.

    folder: the cell's own. What is saved: at a checkpoint all that the runs need to go on, and what has been seen; at
    the end, by start: validation and test loss and hyperparameters, first and last, and what was seen on the way.
    """
    checkpoints, found = Checkpoints(folder), _newest(cell, folder, say=True)
    if found is not None and found.about["finished"]:
        progress(cell.steps * (cell.last - cell.first))
        return True
    if cell.rule.by_ray_tune:
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


def result_of(cell: Cell, folder: Path) -> dict[str, Array] | None:
    """The arrays of a finished cell, None where it is not finished."""
    found = _newest(cell, folder)
    return found.arrays if found is not None and found.about["finished"] else None


def _begun(cell: Cell, data: Dataset) -> Runs:
    """The cell's runs before their first step."""
    plan, one = plan_of(cell, data), cell.experiment
    if cell.rule.search == "bayesian":
        return BayesianRuns(plan, one.backend, cell.steps // cell.rule.trials, one.seed)
    return begin_runs(one.backend, plan)


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
