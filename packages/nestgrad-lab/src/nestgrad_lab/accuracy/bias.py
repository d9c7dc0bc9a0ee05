"""How far the first hypergradient of a run lies from the derivative through the last steps themselves.

From each random start, ten steps are taken; then one-pass tuning's estimate (a series of five terms) is compared, as a
raw gradient and hyperparameter by hyperparameter, with reverse mode through exactly the last five of those steps. Once
with the optimizer's state held constant, as in Clarke et al. 2022, once with it carried.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from nestgrad_lab.data import load
from nestgrad_lab.engines import backend_named
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.draws import draw_starts
from nestgrad_lab.networks import Mlp
from nestgrad_lab.progress import number
from nestgrad_lab.settings import DTYPES, OUTER_LR, require_at_least
from nestgrad_lab.tables import print_table
from nestgrad_lab.threads import one_thread

EVERY, LOOKBACK, HIDDEN = 10, 5, 50
ESTIMATORS = {"weights": "state held constant", "weights_and_state": "state carried"}
"""WeightUpdate's `carry`, and what to call it."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Of one estimator in one hyperparameter, over all draws: share of right signs, median relative error and ratio.

    moved_error: the median relative error of the first move of the natural value by Adam at 0.05, which is what the
    paper's figure 7 shows: Adam's first step is nearly a sign, so it is near 0 or 2 whatever the derivative's error.
    """

    same_sign: float
    relative_error: float
    ratio: float
    moved_error: float


def measure(
    *, data: str = "uci/energy", draws: int = 200, backend: str | None = None, seed: int = 0, dtype: str = "float32"
) -> dict[str, dict[str, Deviation]]:
    """{estimator: {hyperparameter: deviation}}."""
    require_at_least("--draws", draws, 1)
    if dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype!r}, limit: {' or '.join(DTYPES)}. Remedy: name one of these.")
    chosen, _ = backend_named(backend)
    first = importlib.import_module(f"nestgrad_lab.accuracy.{chosen}_bias").FirstHypergradients
    found = load(data)
    if found.task != "regression":
        raise OptionError(f"--data {data}: {found.task}, limit: regression. Remedy: name a UCI set.")
    network = Mlp(len(found.features), HIDDEN, found.outputs)
    with one_thread():
        runner = first(found.train, found.valid, dtype, EVERY, LOOKBACK)
        starts = draw_starts(range(draws), network, dtype, seed, "sgd")
        rows = [runner(start) for start in starts]
    values = [start.values for start in starts]
    return {carry: _deviations(values, [(row["exact"], row[carry]) for row in rows]) for carry in ESTIMATORS}


def first_move(name: str, value: float, gradient: float) -> float:
    """How far Adam's first step, in the leaf, moves a natural value: leaf ← leaf - 0.05 g / (|g| + 1e-8)."""
    slope = value * (1.0 - value) if name == "momentum" else value * math.log(10.0)
    step = -OUTER_LR * slope * gradient / (abs(slope * gradient) + 1e-8)
    if name == "momentum":
        odds = value / (1.0 - value) * math.exp(step)
        return odds / (1.0 + odds) - value
    return value * (10.0**step - 1.0)


def _deviations(
    values: list[Mapping[str, float]], pairs: list[tuple[Mapping[str, float], Mapping[str, float]]]
) -> dict[str, Deviation]:
    found: dict[str, Deviation] = {}
    for name in pairs[0][0]:
        exact, estimate = (np.array([pair[side][name] for pair in pairs]) for side in (0, 1))
        usable = np.isfinite(exact) & np.isfinite(estimate) & (exact != 0.0)
        ratio: Any = estimate[usable] / exact[usable]
        natural = [value[name] for value in values]
        right, moved = (
            np.array([first_move(name, *row) for row in zip(natural, side, strict=True)])[usable]
            for side in (exact, estimate)
        )
        found[name] = Deviation(
            same_sign=float(np.mean(ratio > 0.0)),
            relative_error=float(np.median(np.abs(ratio - 1.0))),
            ratio=float(np.median(ratio)),
            moved_error=float(np.median(np.abs(moved / right - 1.0))),
        )
    return found


def report_bias(console: Console | None = None, **options: Any) -> None:
    """Measure and print one table."""
    rows = [
        [
            ESTIMATORS[carry],
            name.replace("_", " "),
            f"{one.same_sign:.1%}",
            f"{one.relative_error:.1%}",
            number(one.ratio),
            f"{one.moved_error:.1%}",
        ]
        for carry, each in measure(**options).items()
        for name, one in each.items()
    ]
    title = f"First hypergradient against reverse mode through the last {LOOKBACK} of {EVERY} steps"
    columns = [
        "estimator",
        "hyperparameter",
        "same sign",
        "median relative error",
        "median ratio",
        "of Adam's first move (figure 7)",
    ]
    print_table(console or Console(), title, columns, rows)
