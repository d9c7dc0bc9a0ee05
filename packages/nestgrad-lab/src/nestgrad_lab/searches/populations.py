"""ASHA and population-based training by Ray Tune, around any algorithm of the lab."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.experiments.cells import Cell, choose, ends_of, plan_of
from nestgrad_lab.experiments.draws import Start
from nestgrad_lab.experiments.plan import Runs, ShiftableRuns, begin_runs
from nestgrad_lab.hyperparameters import HYPERPARAMETERS
from nestgrad_lab.searches.cluster import load_ray, watch_for
from nestgrad_lab.storage.checkpoints import Checkpoints
from nestgrad_lab.threads import one_thread

REPORT = 100
"""Training steps between two reports."""
REDUCTION, PERTURBATION = 4, 5
"""ASHA keeps one trial in so many at a rung; PBT perturbs every so many reports."""


def run_population(cell: Cell, stop: Callable[[], bool]) -> dict[str, Array] | None:
    """Search with as many trials as the cell has starts; what a finished cell keeps, of trials of full length.

    stop: whether to stop at the next report of any trial; then None. Which trials a scheduler stops depends on which of
    them report first, so two searches by ASHA differ; a search that is interrupted begins anew.
    """
    tune = load_ray().tune
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining  # noqa: PLC0415

    reports = cell.experiment.steps // REPORT
    space = {
        "learning_rate": tune.loguniform(1e-6, 1e-1),
        "weight_decay": tune.loguniform(1e-7, 1e-2),
        "momentum": tune.uniform(1e-6, 1.0 - 1e-6),
    }
    if cell.rule.search == "asha":
        scheduler: Any = ASHAScheduler(max_t=reports, grace_period=1, reduction_factor=REDUCTION)
    else:
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=PERTURBATION,
            hyperparam_mutations={**space},
            resample_probability=0.25,
        )

    class Until(tune.Stopper):
        """A trial at its full length; all of them when asked."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return result["training_iteration"] >= reports

        def stop_all(self) -> bool:
            from nestgrad_lab.searches.cluster import asked_to_stop  # noqa: PLC0415  (Ray saves this class by value)

            return asked_to_stop()

    watch_for(stop)
    with tempfile.TemporaryDirectory() as storage:
        results = tune.Tuner(
            tune.with_parameters(_trial_class(tune), cell=cell),
            param_space={**space, "number": tune.randint(0, 2**31 - 1)},
            tune_config=tune.TuneConfig(
                metric="validation_loss",
                mode="min",
                num_samples=cell.last - cell.first,
                scheduler=scheduler,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=storage, name="search", stop=Until(), verbose=0),
        ).fit()
        rows = [one.metrics_dataframe for one in results if one.metrics_dataframe is not None]
        last = [dict(one.metrics) for one in results if one.metrics and one.metrics["training_iteration"] >= reports]
    return None if stop() else _arrays(last, sum(len(one) for one in rows))


def _trial_class(tune: Any) -> Any:
    """Ray's Trainable for a cell."""

    class Trial(tune.Trainable):  # type: ignore[misc, name-defined]
        """One run of the cell's algorithm from the configuration's hyperparameters."""

        def setup(self, config: dict[str, Any], cell: Cell) -> None:
            self.cell, self.data = cell, choose(cell.data)
            self.begin(config)

        def begin(self, config: Mapping[str, Any]) -> None:
            self.runs, self.taken = _runs(self.cell, config), 0

        def step(self) -> dict[str, Any]:
            with one_thread():
                self.runs.advance(REPORT)
                self.taken += REPORT
                return _metrics(self.cell, self.data, self.runs)

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            about = {"config": _searched(self.config), "taken": self.taken}
            Checkpoints(Path(checkpoint_dir)).save(self.taken, self.runs.snapshot(), about)

        def load_checkpoint(self, checkpoint: str) -> None:
            """The state saved, moved in each leaf by what the configuration has changed since."""
            found = Checkpoints(Path(checkpoint)).newest()
            assert found is not None  # noqa: S101  (Ray hands over what save_checkpoint wrote)
            self.runs.restore(found.arrays)
            self.taken = found.about["taken"]
            now, before = _searched(self.config), found.about["config"]
            moved = {name: _leaf(name, now[name]) - _leaf(name, before[name]) for name in now}
            self.runs.shift({name: by for name, by in moved.items() if by})

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.begin(new_config)
            return True

    return Trial


def _runs(cell: Cell, config: Mapping[str, Any]) -> ShiftableRuns:
    """One run from the configuration's hyperparameters, and weights drawn for its number."""
    one, data = cell.experiment, choose(cell.data)
    plan = plan_of(dataclasses.replace(cell, last=cell.first + 1), data)
    weights = plan.network.draw(one.dtype, [one.seed, 12, int(config["number"])])
    start = Start(cell.first, _searched(config), weights, 1.0)
    return cast("ShiftableRuns", begin_runs(one.backend, dataclasses.replace(plan, starts=(start,))))


def _searched(config: Mapping[str, Any]) -> dict[str, float]:
    """The hyperparameters of a configuration, each inside its space."""
    found = {name: float(config[name]) for name in ("learning_rate", "weight_decay", "momentum")}
    return {
        **found,
        "momentum": min(max(found["momentum"], 1e-6), 1.0 - 1e-6),
        "learning_rate": min(found["learning_rate"], 1.0),
    }


def _leaf(name: str, value: float) -> float:
    """The unconstrained leaf of a natural value."""
    return float(np.log(value / (1.0 - value))) if name == "momentum" else float(np.log10(value))


def _metrics(cell: Cell, data: Any, runs: Runs) -> dict[str, Any]:
    ends = ends_of(dataclasses.replace(cell, last=cell.first + 1), data, runs)
    loss = float(ends["validation_loss"][0])
    values = {f"value_{name}": float(value[0]) for name, value in runs.values().items()}
    return {
        "validation_loss": loss if np.isfinite(loss) else float("inf"),
        "test_loss": float(ends["test_loss"][0]),
        **values,
    }


def _arrays(last: list[dict[str, Any]], reports: int) -> dict[str, Array]:
    """As a finished cell of table kind keeps them, a run a trial of full length."""
    names = list(HYPERPARAMETERS)
    column: Callable[[str], Array] = lambda name: np.array([one[name] for one in last], np.float64)  # noqa: E731
    seen = {
        f"seen:{name}": np.stack([[one["config"][name] for one in last], column(f"value_{name}")]) for name in names
    }
    return {
        "start": np.arange(len(last)),
        "validation_loss": column("validation_loss"),
        "test_loss": column("test_loss"),
        "reports": np.array(reports),
        "seen:step": np.array([0, reports]),
        "seen:test": np.stack([column("test_loss")] * 2),
        "seen:validation": np.stack([column("validation_loss")] * 2),
        **seen,
    }
