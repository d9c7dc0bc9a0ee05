"""One row of the paper's UCI tables: many starts of one algorithm, and statistics of where they end."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nestgrad import Implicit, Neumann
from nestgrad_lab.clarke.algorithms import ALGORITHMS, algorithm_named
from nestgrad_lab.clarke.starts import End, Start, draw_starts
from nestgrad_lab.data import Dataset, load
from nestgrad_lab.engines import CARRIES, Carry, Inner, Plan, backend_named
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.errors import OptionError
from nestgrad_lab.models import test_score, validation_loss
from nestgrad_lab.progress import display, number
from nestgrad_lab.runs import RunFolder, State, next_path, require_new
from nestgrad_lab.settings import DTYPES, OUTER_LR, require_at_least
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.tables import print_table
from nestgrad_lab.threads import one_thread

EVERY, LOOKBACK, HIDDEN = 10, 5, 50
COLUMNS = ["start", "test_mse", "validation_loss"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The options of `nestgrad clarke`; algorithm None means the inner optimizer's first."""

    data: str = "uci/energy"
    inner: Inner = "sgd"
    algorithm: str | None = None
    every: int = EVERY
    lookback: int = LOOKBACK
    carry: Carry = "weights"
    backend: str | None = None
    starts: int = 32
    steps: int = 4000
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: Path | None = None

    def __post_init__(self) -> None:
        for option, value, least in [
            ("--starts", self.starts, 1),
            ("--steps", self.steps, 1),
            ("--every", self.every, 1),
            ("--lookback", self.lookback, 1),
            ("--seed", self.seed, 0),
        ]:
            require_at_least(option, value, least)
        if self.tuned and self.steps < self.every:
            raise OptionError(
                f"--steps {self.steps}: no hyper step is due before step {self.every}, limit: at least --every. "
                f"Remedy: pass --steps {self.every} or more, or a smaller --every."
            )
        if self.carry not in CARRIES:
            raise OptionError(f"--carry {self.carry!r}, limit: {' or '.join(CARRIES)}. Remedy: name one of these.")
        if self.dtype not in DTYPES:
            raise OptionError(f"--dtype {self.dtype!r}, limit: {' or '.join(DTYPES)}. Remedy: name one of these.")
        if not self.data.startswith("uci/"):
            raise OptionError(f"--data {self.data!r}, limit: a UCI set of the paper. Remedy: --data uci/energy.")

    @property
    def named(self) -> str:
        """The algorithm's name; OptionError where there is none such."""
        return algorithm_named(self.inner, self.algorithm)

    @property
    def tuned(self) -> tuple[str, ...]:
        """The hyperparameters that move."""
        name = self.named
        return ALGORITHMS[self.inner][name]


def report_experiment(experiment: Experiment, console: Console | None = None) -> State:
    """Run it and print the table; returns how it ended."""
    console = console or Console()
    summary, folder = repeat(experiment, console)
    figures = [[name.replace("_", " "), number(value)] for name, value in summary["test_mse"].items()]
    counts = [["starts finished", str(summary["finished"])], ["NaN, left out of the rest", str(summary["nan"])]]
    title = f"{experiment.named} on {experiment.data}: final test mean squared error"
    print_table(console, title, ["", summary["backend"]], counts + figures)
    console.print(
        f"{summary['seconds']:.1f} s of training. {folder.path}: config.toml, starts.csv, summary.json",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return summary["state"]


def repeat(experiment: Experiment, console: Console | None = None) -> tuple[dict[str, Any], RunFolder]:
    """Train from every start; the summary and the folder. Errors of nestgrad come before anything is written."""
    console = console or Console(quiet=True)
    if experiment.out is not None:
        require_new(experiment.out)
    backend, _ = backend_named(experiment.backend)
    data = load(experiment.data)
    train = data.train if experiment.tuned else data.merged
    starts = draw_starts(
        experiment.starts, len(data.features), HIDDEN, experiment.dtype, experiment.seed, experiment.inner
    )
    plans = [_plan(experiment, start) for start in starts]
    train_starts = importlib.import_module(f"nestgrad_lab.clarke.{backend}_starts").train_starts
    name = f"clarke-{data.name}-{experiment.named}-{backend}"
    folder = RunFolder.create(experiment.out or next_path(name), _config(experiment, backend, data))
    began, rows = time.perf_counter(), []
    state: State = "failed"
    try:
        total = experiment.steps * experiment.starts
        columns = [*COLUMNS, *_value_columns(starts[0])]
        with (
            one_thread(),
            asked_to_stop() as stop,
            folder.table("starts.csv", columns) as table,
            display(console, total, "step of all starts") as shown,
        ):
            progress = _progress(shown, rows, stop)
            ends: Iterator[End] = train_starts(plans, starts, train, data.valid, experiment.steps, progress)
            for k, (start, end) in enumerate(zip(starts, ends, strict=False)):
                rows.append(_row(k, data, start, end))
                table.add(rows[-1])
        state = "finished" if len(rows) == experiment.starts else "interrupted"
    except KeyboardInterrupt:
        state = "interrupted"
    finally:
        summary = _summary(experiment, backend, state, rows, time.perf_counter() - began)
        folder.write_json("summary.json", summary)
        folder.set_state(state)
    return summary, folder


def _plan(experiment: Experiment, start: Start) -> Plan:
    tuned = experiment.tuned
    return Plan(
        task="regression",
        dtype=experiment.dtype,
        device=experiment.device,
        every=experiment.every,
        method=Implicit(solver=Neumann(num_terms=experiment.lookback, step_size=1.0)),
        outer_lr=OUTER_LR,
        tuned={name: value for name, value in start.values.items() if name in tuned},
        fixed={name: value for name, value in start.values.items() if name not in tuned},
        carry=experiment.carry,
        inner=experiment.inner,
    )


def _progress(shown: Any, rows: list[dict[str, Any]], stop: Callable[[], bool]) -> Callable[[int], bool]:
    def progress(taken: int) -> bool:
        median = float(np.nanmedian([row["test_mse"] for row in rows])) if rows else float("nan")
        shown.show(taken, {"median test MSE so far": median} if rows else {})
        return stop()

    return progress


def _row(k: int, data: Dataset, start: Start, end: End) -> dict[str, Any]:
    return {
        "start": k,
        "test_mse": test_score(data, end.weights),
        "validation_loss": validation_loss(data, end.weights),
        **{f"initial_{name}": value for name, value in start.values.items()},
        **{f"final_{name}": value for name, value in end.values.items()},
    }


def _value_columns(start: Start) -> list[str]:
    return [f"{when}_{name}" for when in ("initial", "final") for name in start.values]


def _summary(
    experiment: Experiment, backend: str, state: State, rows: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    found = np.array([row["test_mse"] for row in rows])
    kept = found[~np.isnan(found)]
    quantiles = {"best": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "worst": 1.0}
    figures = {name: float(np.quantile(kept, share)) for name, share in quantiles.items()} if len(kept) else {}
    return {
        "state": state,
        "data": experiment.data,
        "algorithm": experiment.named,
        "backend": backend,
        "steps": experiment.steps,
        "starts": experiment.starts,
        "finished": len(rows),
        "nan": len(found) - len(kept),
        "test_mse": {**figures, "mean": float(kept.mean())} if len(kept) else {},
        "seconds": seconds,
    }


def _config(experiment: Experiment, backend: str, data: Dataset) -> dict[str, Any]:
    elsewhere = {"out", "backend", "every", "lookback", "carry"}
    options = {name: value for name, value in asdict(experiment).items() if name not in elsewhere}
    return {
        "experiment": {**options, "algorithm": experiment.named, "backend": backend},
        "data": {"sha256": data.sha256},
        "tuning": {
            "tuned": list(experiment.tuned),
            "every": experiment.every,
            "lookback": experiment.lookback,
            "carry": experiment.carry,
            "hidden": HIDDEN,
            "outer_optimizer": {"name": "adam", "learning_rate": OUTER_LR},
        },
        "versions": versions(),
    }
