"""What is said of many starts: mean and median with the bootstrap of Clarke et al. 2022, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from nestgrad_lab.data.dataset import Array


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic, its mean over the resamples and their standard deviation; the last two are what the paper has."""

    value: float
    resampled: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of one algorithm's test losses at the last step, and of the lowest on the way.

    runs: how many; nan: how many of them ended in NaN, which are left out of mean, median and best (infinities are
    not). mean_seen, median_seen, best_seen: the same of each run's lowest test loss at any look. The paper's "best" is
    the last of them, its row of Bayesian optimisation the first two.
    """

    runs: int
    nan: int
    mean: Estimate
    median: Estimate
    best: float
    mean_seen: Estimate
    median_seen: Estimate
    best_seen: float


def summarise(test: Array, seen: Array, resamples: int, seed: int) -> Summary:
    """test, seen: (runs,), the final and the lowest test loss of each run."""
    kept = test[~np.isnan(test)]
    low = seen[~np.isnan(seen)]
    return Summary(
        runs=len(test),
        nan=len(test) - len(kept),
        mean=_estimate(kept, np.mean, resamples, seed),
        median=_estimate(kept, np.median, resamples, seed),
        best=float(kept.min()) if len(kept) else float("nan"),
        mean_seen=_estimate(low, np.mean, resamples, seed),
        median_seen=_estimate(low, np.median, resamples, seed),
        best_seen=float(low.min()) if len(low) else float("nan"),
    )


def _estimate(values: Array, statistic: object, resamples: int, seed: int) -> Estimate:
    if len(values) == 0:
        return Estimate(value=float("nan"), resampled=float("nan"), error=float("nan"))
    value = float(statistic(values))  # type: ignore[operator]
    if len(values) < 2 or not np.isfinite(values).all():  # noqa: PLR2004
        return Estimate(value=value, resampled=value, error=float("nan"))
    found = bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng([seed, 8]),
    ).bootstrap_distribution
    return Estimate(value=value, resampled=float(found.mean()), error=float(found.std()))


def best_of(groups: int, validation: Array, seed: int) -> Array:
    """The numbers of the runs with the lowest validation loss in each group of so many, drawn without return.

    The remainder is dropped, as in the paper; NaN never wins unless a whole group is NaN. All runs where groups is 1,
    or more than there are.
    """
    if groups == 1 or len(validation) < groups:
        return np.arange(len(validation))
    order = np.random.default_rng([seed, 9]).permutation(len(validation))
    rows = order[: len(order) // groups * groups].reshape(-1, groups)
    held = np.where(np.isnan(validation[rows]), np.inf, validation[rows])
    return rows[np.arange(len(rows)), held.argmin(axis=1)]
