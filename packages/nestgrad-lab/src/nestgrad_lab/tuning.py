"""`nestgrad tune`: one run that tunes its hyperparameters beside one from the same start that does not."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console
from safetensors.numpy import save as as_safetensors

from nestgrad import Implicit, Neumann, Status
from nestgrad_lab.batches import Batches, Segment, distinct_lengths, segment_lengths
from nestgrad_lab.data import Dataset, load
from nestgrad_lab.engines import Engine, Plan, backend_named, engine_for
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.errors import TrainingDiverged
from nestgrad_lab.hyperparameters import HYPERPARAMETERS, spaces
from nestgrad_lab.methods import method_named
from nestgrad_lab.models import Weights, draw_weights, score_name, test_score, validation_loss
from nestgrad_lab.pictures import run_picture
from nestgrad_lab.progress import display
from nestgrad_lab.runs import RunFolder, State, next_path, require_new
from nestgrad_lab.settings import OUTER_LR, Settings, Sizes, sizes
from nestgrad_lab.stopping import asked_to_stop
from nestgrad_lab.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; summary is what summary.json holds."""

    state: State
    folder: RunFolder
    summary: dict[str, Any]


@dataclass(kw_only=True)
class _Run:
    """A run in progress."""

    settings: Settings
    data: Dataset
    backend: str
    method: Implicit
    sizes: Sizes
    engine: Engine
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    step: int = 0

    @property
    def values(self) -> dict[str, float]:
        """Hyperparameters after the last hyper step."""
        start = self.settings.start
        return {name: self.rows[-1][name] for name in start} if self.rows else start

    def batches(self) -> Batches:
        """The run's batches from its first step on."""
        data, sizes = self.data, self.sizes
        return Batches((len(data.train), sizes.batch), (len(data.valid), sizes.valid_batch), self.settings.seed)


def tune(settings: Settings, console: Console | None = None) -> Outcome:
    """Train twice from one start, tuned and untuned, and leave a run folder.

    Raises errors of nestgrad before anything is written where an option or the data is wrong; TrainingDiverged when a
    loss or a hypergradient stops being finite, as the folder says. SIGINT ends the run early: state "interrupted".
    """
    console = console or Console(quiet=True)
    run = _prepare(settings)
    folder = RunFolder.create(settings.out or next_path(run.data.name), _config(run), step=0, steps=run.sizes.steps)
    _introduce(console, run, folder)
    try:
        with one_thread(), asked_to_stop() as stop:
            _train(run, folder, console, stop)
    except BaseException as error:
        state: State = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        _leave(run, folder, state, message=str(error) or type(error).__name__)
        if state == "failed":
            raise
        return Outcome(state=state, folder=folder, summary=_summary(run, state))
    state = "finished" if run.step == run.sizes.steps else "interrupted"
    return Outcome(state=state, folder=folder, summary=_leave(run, folder, state))


def _prepare(settings: Settings) -> _Run:
    """All that can go wrong before there is a folder."""
    spaces(settings.start)
    if settings.out is not None:
        require_new(settings.out)
    backend, module = backend_named(settings.backend)
    method = method_named(settings.method, settings.lookback, backend, module)
    data = load(settings.data, target=settings.target, task=settings.task, drop=settings.drop, seed=settings.seed)
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
    return _Run(settings=settings, data=data, backend=backend, method=method, sizes=found, engine=engine)


def _train(run: _Run, folder: RunFolder, console: Console, stop: Callable[[], bool]) -> None:
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


def _row(run: _Run, segment: Segment, since: _Since) -> dict[str, Any]:
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


def _columns(run: _Run) -> list[str]:
    names = list(run.settings.start)
    losses = ["inner_loss", "outer_loss", "untuned_inner_loss", "untuned_outer_loss"]
    return ["step", *losses, *names, *(f"hypergradient_{name}" for name in names), "status"]


def _require_finite(run: _Run, row: dict[str, Any]) -> None:
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


def _leave(run: _Run, folder: RunFolder, state: State, **more: Any) -> dict[str, Any]:
    """Write what was measured: tuned values, weights, picture, summary, and last the state."""
    summary = _summary(run, state)
    folder.write("tuned.toml", tomli_w.dumps({"step": run.rows[-1]["step"] if run.rows else 0, **run.values}))
    folder.write("weights.safetensors", _weights_file(run))
    if run.rows:
        title = f"{run.data.name}, {run.backend}, seed {run.settings.seed}: one-pass tuning, {state} at step {run.step}"
        folder.write("picture.png", run_picture(run.rows, run.settings.start, title))
    folder.write_json("summary.json", summary)
    folder.set_state(state, step=run.step, **more)
    return summary


def _summary(run: _Run, state: State) -> dict[str, Any]:
    score = score_name(run.data.task).replace(" ", "_")
    both = {"untuned": run.engine.plain_weights(), "tuned": run.engine.tuned_weights()}
    return {
        "state": state,
        "step": run.step,
        "hyper_steps": len(run.rows),
        "validation_loss": {name: validation_loss(run.data, weights) for name, weights in both.items()},
        score: {name: test_score(run.data, weights) for name, weights in both.items()},
        "start": run.settings.start,
        "tuned": run.values,
        "time": _time(run),
    }


def _time(run: _Run) -> dict[str, Any]:
    """Seconds of training alone; the ratio is the median over hyper steps, whose two parts ran one after the other."""
    if not run.seconds:
        return {}
    tuned, plain = map(sum, zip(*run.seconds, strict=True))
    return {
        "tuned_seconds": tuned,
        "plain_seconds": plain,
        "ratio": statistics.median(mine / other for mine, other in run.seconds),
        "ratio_of_totals": tuned / plain,
        "pairs": len(run.seconds),
    }


def _weights_file(run: _Run) -> bytes:
    """The tuned weights, and what normalises a row: inputs.shift, inputs.scale, target.shift, target.scale."""
    data, weights = run.data, run.engine.tuned_weights()
    tensors: Weights = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    tensors |= {"inputs.shift": data.x_shift, "inputs.scale": data.x_scale}
    tensors |= {"target.shift": np.array(data.y_shift), "target.scale": np.array(data.y_scale)}
    about = {"task": data.task, "features": data.features, "classes": data.classes}
    # One entry, since the format keeps no order among several: the same run would not give the same bytes.
    return as_safetensors(tensors, metadata={"nestgrad-lab": json.dumps(about)})


def _config(run: _Run) -> dict[str, Any]:
    """Everything that decides the numbers of the run."""
    settings, data = run.settings, run.data
    solver = run.method.solver
    lookback = {"lookback": solver.num_terms} if isinstance(solver, Neumann) else {}
    return {
        "data": {
            "name": data.name,
            "source": settings.data,
            **({"target": settings.target, "dropped": list(settings.drop)} if settings.target else {}),
            "task": data.task,
            "sha256": data.sha256,
            "rows": {"train": len(data.train), "validation": len(data.valid), "test": len(data.test)},
        },
        "model": {
            "inputs": len(data.features),
            "hidden": settings.hidden,
            "outputs": data.outputs,
            "dtype": settings.dtype,
        },
        "training": {
            "steps": run.sizes.steps,
            "batch_size": run.sizes.batch,
            "validation_batch_size": run.sizes.valid_batch,
            "seed": settings.seed,
            "start": settings.start,
        },
        "tuning": {
            "every": settings.every,
            "method": settings.method,
            **lookback,
            "solver": str(solver),
            "outer_optimizer": {"name": "adam", "learning_rate": OUTER_LR},
            "spaces": {name: str(HYPERPARAMETERS[name].space) for name in settings.start},
        },
        "backend": {"name": run.backend, "device": settings.device},
        "versions": versions(),
    }


def _introduce(console: Console, run: _Run, folder: RunFolder) -> None:
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
