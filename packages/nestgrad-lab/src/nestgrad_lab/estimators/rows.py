"""The rows of an estimator: what is held out for validation, and what standardises them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, statistics
from nestgrad_lab.errors import DataError


@dataclass(frozen=True)
class Scale:
    """natural = normalised · scale + shift, column by column."""

    shift: Array
    scale: Array

    @classmethod
    def of(cls, values: Array, said: str) -> Scale:
        """Mean and unbiased deviation of each column, 1 for a constant one; DataError where one is infinite."""
        if len(values) < 2:  # noqa: PLR2004
            raise DataError(f"{said}: {len(values)} sample, limit: at least 2. Remedy: give more rows.")
        with np.errstate(over="ignore", invalid="ignore"):
            shift, scale = statistics(values)
        finite = np.isfinite(shift) & np.isfinite(scale)
        if not finite.all():
            column = int(np.argmin(finite))
            raise DataError(
                f"{said}: the variance of column {column} overflows at values up to "
                f"{np.abs(values[:, column]).max():g}, limit: {np.finfo(np.float64).max:g}. Remedy: scale it down."
            )
        return cls(shift, scale)

    def normalised(self, values: Array) -> Array:
        """(n, columns) in units of the deviation, from the mean on."""
        return (values - self.shift) / self.scale

    def natural(self, values: Array) -> Array:
        """The inverse of normalised."""
        return values * self.scale + self.shift


def split(x: Array, y: Array, strata: Array, fraction: float, seed: int) -> tuple[Part, Part]:
    """(training, validation) rows; each stratum gives its share of the validation rows, one row alone trains.

    strata: class numbers, or zeros, shape (n,). The j-th row of the n_c of a stratum, in an order drawn from the seed,
    stands at (j + 1/2) / n_c; validation takes the first round(fraction · n), at least one row and at most n - 1.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(x))
    place = np.empty(len(x))
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata[order] == stratum)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    sorted_rows = order[np.argsort(place, kind="stable")]
    held = min(max(1, round(fraction * len(x))), len(x) - 1)
    valid, train = sorted_rows[:held], sorted_rows[held:]
    return Part(x[train], y[train]), Part(x[valid], y[valid])
