"""One tuned training run, from rows to weights, without a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nestgrad import Implicit, Neumann, Status
from nestgrad_lab.batches import Batches, segment_lengths
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.engines import Carry, Engine, Plan, backend_named, engine_for
from nestgrad_lab.errors import TrainingDiverged
from nestgrad_lab.models import Weights, draw_weights
from nestgrad_lab.settings import MOST_VALIDATION_ROWS, OUTER_LR
from nestgrad_lab.threads import one_thread

DTYPE = "float32"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides a training run besides its rows; batch_size None means all training rows."""

    hidden: int
    steps: int
    every: int
    lookback: int
    batch_size: int | None
    start: Mapping[str, float]
    carry: Carry
    backend: str | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """history: a column of one number a hyper step for each name."""

    weights: Weights
    values: dict[str, float]
    history: dict[str, Array]


def train(task: Task, rows: tuple[Part, Part], outputs: int, options: Options) -> Trained:
    """Train and tune on (training, validation) rows; TrainingDiverged where a number stops being finite."""
    part, valid = rows
    backend, _ = backend_named(options.backend)
    plan = Plan(
        task=task,
        dtype=DTYPE,
        device="cpu",
        every=options.every,
        method=Implicit(solver=Neumann(num_terms=options.lookback, step_size=1.0)),
        outer_lr=OUTER_LR,
        tuned=options.start,
        carry=options.carry,
    )
    weights = draw_weights(part.x.shape[1], options.hidden, outputs, DTYPE, [options.seed, 3])
    with one_thread():
        engine = engine_for(backend)(plan, weights, part, valid)
        found = _steps(engine, _batches(part, valid, options), options)
    columns = {name: np.array([row[name] for row in found]) for name in found[0]}
    values = {name: float(columns[name][-1]) for name in options.start}
    return Trained(weights=engine.tuned_weights(), values=values, history=columns)


def _batches(part: Part, valid: Part, options: Options) -> Batches:
    size = min(options.batch_size or len(part), len(part))
    return Batches((len(part), size), (len(valid), min(MOST_VALIDATION_ROWS, len(valid))), options.seed)


def _steps(engine: Engine, batches: Batches, options: Options) -> list[dict[str, float]]:
    """All steps; a row for each hyper step, whose inner loss is the mean since the last."""
    found: list[dict[str, float]] = []
    losses: list[Array] = []
    taken = 0
    for length in segment_lengths(options.steps, options.every):
        engine.tune(batches.segment(length))
        taken += length
        report = engine.tuned_report()
        losses.append(report.inner_losses)
        if not np.isfinite(report.inner_losses).all() or (report.tuned and report.status == Status.NONFINITE.name):
            raise TrainingDiverged(
                f"training step {taken} of {options.steps}: inner loss {report.inner_losses[-1]:g}, hypergradient "
                f"{report.status}, limit: finite numbers, at learning rate {_rate(found, options):g}. "
                "Remedy: start with a smaller learning_rate or momentum."
            )
        if report.tuned:
            row = {"step": taken, "inner_loss": float(np.concatenate(losses).mean()), "outer_loss": report.outer_loss}
            found.append({**row, **report.values})
            losses = []
    return found


def _rate(found: list[dict[str, float]], options: Options) -> float:
    return found[-1]["learning_rate"] if found else options.start["learning_rate"]
