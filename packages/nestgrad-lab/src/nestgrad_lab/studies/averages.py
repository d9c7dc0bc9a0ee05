"""Means over runs, as tables show them."""

from __future__ import annotations

from nestgrad_lab.data.dataset import Array


def standard_error(values: Array) -> float:
    """The mean's standard error; NaN for a single value."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def mean_and_error(values: Array) -> str:
    """The mean ± its standard error."""
    return f"{values.mean():.4g} ± {standard_error(values):.2g}"
