"""`nestgrad tune`: one run that tunes its hyperparameters beside one from the same start that does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console

from nestgrad import Status
from nestgrad_lab.batches import Segment, distinct_lengths, segment_lengths
from nestgrad_lab.data import load
from nestgrad_lab.engines import Engine, Plan, backend_named, engine_for
from nestgrad_lab.errors import OptionError, TrainingDiverged
from nestgrad_lab.hyperparameters import spaces
from nestgrad_lab.methods import method_named
from nestgrad_lab.models import draw_weights, validation_loss
from nestgrad_lab.pictures import run_picture
from nestgrad_lab.progress import display
from nestgrad_lab.records import configuration, summarize, weights_file
from nestgrad_lab.runs import RunFolder, State, next_path, require_new
from nestgrad_lab.settings import OUTER_LR, Settings, sizes
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.threads import one_thread
from nestgrad_lab.tuning_run import Run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; summary is what summary.json holds."""

    state: State
    folder: RunFolder
    summary: dict[str, Any]


def tune(settings: Settings, console: Console | None = None) -> Outcome:
    """Train twice from one start, tuned and untuned, and leave a run folder.

    Raises errors of nestgrad before anything is written where an option or the data is wrong; TrainingDiverged when a
    loss or a hypergradient stops being finite, as the folder says. SIGINT ends the run early: state "interrupted".
    """
    console = console or Console(quiet=True)
    run = _prepare(settings)
    folder = RunFolder.create(
        settings.out or next_path(run.data.name), configuration(run), step=0, steps=run.sizes.steps
    )
    _introduce(console, run, folder)
    try:
        with one_thread(), asked_to_stop() as stop:
            _train(run, folder, console, stop)
        state: State = "finished" if run.step == run.sizes.steps else "interrupted"
    except KeyboardInterrupt:
        state = "interrupted"
    except BaseException as error:
        _leave(run, folder, "failed", message=str(error) or type(error).__name__)
        raise
    return Outcome(state=state, folder=folder, summary=_leave(run, folder, state))


def _prepare(settings: Settings) -> Run:
    """All that can go wrong before there is a folder."""
    spaces(settings.start)
    if settings.out is not None:
        require_new(settings.out)
    backend, module = backend_named(settings.backend)
    method = method_named(settings.method, settings.lookback, backend, module)
    data = load(settings.data, target=settings.target, task=settings.task, drop=settings.drop, seed=settings.seed)
    if data.words:
        raise OptionError(
            f"--data {data.name}: a text, limit: rows of numbers, as the network has no embedding. "
            "Remedy: nestgrad experiment lstm, or other data."
        )
    weights = draw_weights(len(data.features), settings.hidden, data.outputs, settings.dtype, [settings.seed, 3])
    plan = Plan(
        task=data.task,
        dtype=settings.dtype,
        device=settings.device,
        every=settings.every,
        method=method,
        outer_lr=OUTER_LR,
        tuned=settings.start,
    )
    found = sizes(settings, data)
    engine = engine_for(backend)(plan, weights, data.train, data.valid)
    return Run(settings=settings, data=data, backend=backend, method=method, sizes=found, engine=engine)


def _train(run: Run, folder: RunFolder, console: Console, stop: Callable[[], bool]) -> None:
    """Segment by segment, the tuned run and the plain one in turn."""
    steps, every = run.sizes.steps, run.settings.every
    rehearsal, batches, since = run.batches(), run.batches(), _Since()
    run.engine.warm_up([rehearsal.segment(length) for length in distinct_lengths(steps, every)])
    with folder.table("metrics.csv", _columns(run)) as table, display(console, steps) as shown:
        for number, length in enumerate(segment_lengths(steps, every)):
            if stop():
                return
            segment = batches.segment(length)
            since.add(_timed(run.engine, segment, tuned_first=number % 2 == 0), run.engine)
            run.step += length
            if run.step % every:
                continue
            row = _row(run, segment, since)
            table.add(row)
            run.rows.append(row)
            run.seconds.append(since.seconds)
            _require_finite(run, row)
            shown.show(run.step, _figures(row))
            since = _Since()


class _Since:
    """What was gathered since the last hyper step."""

    def __init__(self) -> None:
        self.seconds = (0.0, 0.0)
        self.tuned_losses: list[Any] = []
        self.plain_losses: list[Any] = []

    def add(self, seconds: tuple[float, float], engine: Engine) -> None:
        """One more segment."""
        self.seconds = (self.seconds[0] + seconds[0], self.seconds[1] + seconds[1])
        self.tuned_losses.append(engine.tuned_report().inner_losses)
        self.plain_losses.append(engine.plain_losses())


def _timed(engine: Engine, segment: Segment, *, tuned_first: bool) -> tuple[float, float]:
    """(tuned, plain) seconds: training alone, nothing read, judged or written; the order alternates."""
    clock, found = time.perf_counter, {}
    for train in (engine.tune, engine.train) if tuned_first else (engine.train, engine.tune):
        began = clock()
        train(segment)
        found[train.__name__] = clock() - began
    return found["tune"], found["train"]


def _row(run: Run, segment: Segment, since: _Since) -> dict[str, Any]:
    """One line of metrics.csv. Inner losses are means over the steps since the last line."""
    report = run.engine.tuned_report()
    return {
        "step": run.step,
        "inner_loss": float(np.concatenate(since.tuned_losses).mean()),
        "outer_loss": report.outer_loss,
        "untuned_inner_loss": float(np.concatenate(since.plain_losses).mean()),
        "untuned_outer_loss": validation_loss(run.data, run.engine.plain_weights(), segment.valid_rows),
        **{name: report.values[name] for name in run.settings.start},
        **{f"hypergradient_{name}": report.hypergradient[name] for name in run.settings.start},
        "status": report.status,
    }


def _columns(run: Run) -> list[str]:
    names = list(run.settings.start)
    losses = ["inner_loss", "outer_loss", "untuned_inner_loss", "untuned_outer_loss"]
    return ["step", *losses, *names, *(f"hypergradient_{name}" for name in names), "status"]


def _require_finite(run: Run, row: dict[str, Any]) -> None:
    if row["status"] == Status.NONFINITE.name or not np.isfinite(row["inner_loss"]):
        raise TrainingDiverged(
            f"step {run.step}: inner loss {row['inner_loss']:g}, outer loss {row['outer_loss']:g}, hypergradient "
            f"status {row['status']}, limit: finite numbers, at learning rate {run.rows[-1]['learning_rate']:g}. "
            "Remedy: start with a smaller --lr or --momentum."
        )


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {
        "train": row["inner_loss"],
        "valid": row["outer_loss"],
        "untuned valid": row["untuned_outer_loss"],
        "lr": row["learning_rate"],
        "momentum": row["momentum"],
        "decay": row["weight_decay"],
    }


def _leave(run: Run, folder: RunFolder, state: State, **more: Any) -> dict[str, Any]:
    """Write what was measured: tuned values, weights, picture, summary, and last the state."""
    summary = summarize(run, state)
    folder.write("tuned.toml", tomli_w.dumps({"step": run.rows[-1]["step"] if run.rows else 0, **run.values}))
    folder.write("weights.safetensors", weights_file(run))
    if run.rows:
        title = f"{run.data.name}, {run.backend}, seed {run.settings.seed}: one-pass tuning, {state} at step {run.step}"
        folder.write("picture.png", run_picture(run.rows, run.settings.start, title))
    folder.write_json("summary.json", summary)
    folder.set_state(state, step=run.step, **more)
    return summary


def _introduce(console: Console, run: Run, folder: RunFolder) -> None:
    data, sizes_ = run.data, run.sizes
    kind = f"{len(data.classes)} classes" if data.classes else "regression"
    why = f" ({data.task_reason}; --task says otherwise)" if data.task_reason else ""
    batch = "full batches" if sizes_.batch == len(data.train) else f"batches of {sizes_.batch}"
    lines = [
        f"{data.name}: {len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test rows",
        f"  {len(data.features)} inputs, {kind}{why}",
        f"{run.backend} on {run.settings.device}, {run.settings.dtype}, seed {run.settings.seed}",
        f"  {sizes_.steps} steps, {batch}, a hyper step every {run.settings.every}: {run.method.solver}",
        f"run folder: {folder.path}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
