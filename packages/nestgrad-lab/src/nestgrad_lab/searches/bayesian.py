"""Bayesian optimisation as runs: repetitions side by side, each a sequence of whole trials without tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import MissingPackage
from nestgrad_lab.experiments.draws import Start
from nestgrad_lab.experiments.plan import Plan, Runs, Values, begin_runs
from nestgrad_lab.models import Weights

BOX = {"learning_rate": (-6.0, -1.0), "weight_decay": (-7.0, -2.0), "momentum": (1e-6, 1.0 - 1e-6)}
"""Where it searches: exponents of 10 of the first two, the third as it is."""
RANDOM_TRIALS, KAPPA = 5, 2.576


class BayesianRuns:
    """Repetitions of a search by a Gaussian process, upper confidence bound, on the final validation loss.

    A trial trains on training rows alone, from weights of its own. The first five trials of a repetition are random; a
    loss that is not finite counts as the repetition's worst finite one. `weights` are those of the trial with the
    lowest validation loss so far, so what a table says of it, another than the paper's running minimum over test
    losses, could be had without test rows; that minimum is the column "best seen". (Clarke et al. 2022, tables 6, 7.)
    """

    def __init__(self, plan: Plan, backend: str, steps: int, seed: int) -> None:
        """steps: of one trial."""
        import_bayes_opt()
        self._plan, self._backend, self._steps, self._seed = plan, backend, steps, seed
        count = len(plan.starts)
        self._points = np.empty((0, count, len(BOX)))
        self._losses = np.empty((0, count))
        self._best = {name: np.array(value) for name, value in plan.weights.items()}
        self._chosen = np.full((count, len(BOX)), np.nan)
        self._taken = 0
        self._inner = self._next_trial()

    def advance(self, steps: int) -> None:
        left = steps
        while left:
            if self._taken == self._steps:
                self._taken, self._inner = 0, self._next_trial()
            some = min(left, self._steps - self._taken)
            self._inner.advance(some)
            self._taken += some
            left -= some
            if self._taken == self._steps:
                self._conclude()

    def losses(self) -> dict[str, Array]:
        return self._inner.losses()

    def values(self) -> Values:
        columns = dict(zip(BOX, self._chosen.T if np.isfinite(self._chosen).all() else self._now.T, strict=True))
        return {name: columns[name] if name == "momentum" else 10.0 ** columns[name] for name in columns}

    def weights(self) -> Weights:
        return self._best

    def snapshot(self) -> dict[str, Array]:
        return {
            "points": self._points,
            "trial_losses": self._losses,
            "now": self._now,
            "chosen": self._chosen,
            "taken": np.array(self._taken),
            **{f"best:{name}": value for name, value in self._best.items()},
            **{f"trial:{name}": value for name, value in self._inner.snapshot().items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._points, self._losses, self._chosen = (np.array(arrays[n]) for n in ("points", "trial_losses", "chosen"))
        self._best = {name.removeprefix("best:"): value for name, value in arrays.items() if name.startswith("best:")}
        self._taken = int(arrays["taken"])
        # Between trials the snapshot is of the trial that has just ended, one more than its number by now.
        number = len(self._points) - (1 if self._taken == self._steps else 0)
        self._now = np.array(arrays["now"])
        self._inner = begin_runs(self._backend, self._trial_plan(number))
        own = {name.removeprefix("trial:"): value for name, value in arrays.items() if name.startswith("trial:")}
        self._inner.restore(own)

    def _next_trial(self) -> Runs:
        number = len(self._points)
        self._now = np.stack([self._suggested(k, number) for k in range(len(self._plan.starts))])
        return begin_runs(self._backend, self._trial_plan(number))

    def _trial_plan(self, number: int) -> Plan:
        """The plan of the trial of this number, its weights drawn for it."""
        starts: list[Start] = []
        for start, point in zip(self._plan.starts, self._now, strict=True):
            rate, decay, momentum = point
            values = {"learning_rate": 10.0**rate, "weight_decay": 10.0**decay, "momentum": float(momentum)}
            weights = self._plan.network.draw(self._plan.dtype, [self._seed, start.number, 10, number])
            starts.append(Start(start.number, values, weights, start.factor))
        rule = dataclasses.replace(self._plan.algorithm, rule="fixed")
        return dataclasses.replace(self._plan, algorithm=rule, starts=tuple(starts))

    def _suggested(self, repetition: int, number: int) -> Array:
        """The next point of a repetition: a function of what it has seen, so a resumed search goes the same way."""
        seed = int(np.random.SeedSequence([self._seed, 11, repetition, number]).generate_state(1)[0])
        low, high = np.array(list(BOX.values())).T
        if number < RANDOM_TRIALS:
            return np.random.default_rng(seed).uniform(low, high)
        module = import_bayes_opt()
        search = module.BayesianOptimization(
            f=None,
            pbounds=BOX,
            acquisition_function=module.acquisition.UpperConfidenceBound(kappa=KAPPA),
            random_state=seed,
            verbose=0,
            allow_duplicate_points=True,
        )
        losses = self._losses[:, repetition]
        finite = losses[np.isfinite(losses)]
        worst = finite.max() if len(finite) else 1.0
        for point, loss in zip(self._points[:, repetition], np.where(np.isfinite(losses), losses, worst), strict=True):
            search.register(dict(zip(BOX, point, strict=True)), -float(loss))
        found = search.suggest()
        return np.array([float(found[name]) for name in BOX])

    def _conclude(self) -> None:
        """Take note of a trial that has ended."""
        losses = self._inner.losses()["validation"]
        before = np.where(np.isfinite(self._losses), self._losses, np.inf).min(axis=0, initial=np.inf)
        better = np.where(np.isfinite(losses), losses, np.inf) < before
        weights = self._inner.weights()
        for name, value in self._best.items():
            self._best[name] = np.where(better.reshape(-1, *[1] * (value.ndim - 1)), weights[name], value)
        self._chosen = np.where(better[:, None], self._now, self._chosen)
        self._points = np.concatenate([self._points, self._now[None]])
        self._losses = np.concatenate([self._losses, losses[None]])


def import_bayes_opt() -> Any:
    """The module; MissingPackage where it is not installed."""
    try:
        import bayes_opt  # noqa: PLC0415  (SciPy's and scikit-learn's start)
    except ImportError as error:
        raise MissingPackage(
            f"bayesian-optimization is not installed: {error}. Remedy: pip install 'nestgrad-lab[search]'."
        ) from error
    return bayes_opt
