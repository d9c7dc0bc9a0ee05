"""A data set, split and normalised."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nestgrad_lab.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
Task = Literal["regression", "classification"]

MIN_ROWS = 10
"""Fewer rows cannot be cut into training, validation and test rows that mean anything."""


@dataclass(frozen=True)
class Part:
    """Normalised rows: x of shape (n, d); y of shape (n, 1) for regression, (n,) class numbers for classification.

    Of a text: word numbers, x of shape (n, window), and y, as many, the words that follow.
    """

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Three parts and the numbers that normalised them: natural = normalised · scale + shift.

    features: the inputs' names. classes: labels in the order of the class numbers, empty for regression. sha256: of the
    values as read, so that two runs can tell whether they saw the same data.
    """

    name: str
    task: Task
    features: tuple[str, ...]
    classes: tuple[str, ...]
    train: Part
    valid: Part
    test: Part
    x_shift: Array
    x_scale: Array
    y_shift: float
    y_scale: float
    sha256: str
    task_reason: str = ""

    @property
    def outputs(self) -> int:
        """Outputs of a model for it: one per class, or one number."""
        return len(self.classes) or 1

    @property
    def words(self) -> bool:
        """Whether it is a text: inputs are word numbers."""
        return self.train.x.dtype.kind == "i"

    @property
    def merged(self) -> Part:
        """Training and validation rows together."""
        return Part(np.concatenate([self.train.x, self.valid.x]), np.concatenate([self.train.y, self.valid.y]))


def statistics(x: Array) -> tuple[Array, Array]:
    """(mean, unbiased standard deviation) of each column; the deviation of a constant column is 1.

    Constant means max = min: rounding can leave such a column a deviation of 1e-13, which must not be divided by.
    """
    constant = x.max(axis=0) == x.min(axis=0)
    return x.mean(axis=0), np.where(constant, 1.0, x.std(axis=0, ddof=1))


def shuffled(rows: int, seed: int) -> list[Array]:
    """Row numbers of training, validation and test: 60, 20 and 20 percent of a permutation drawn from the seed."""
    order = np.random.default_rng([seed, 0]).permutation(rows)
    held = max(1, rows // 5)
    return np.split(order, [rows - 2 * held, rows - held])


def regression(
    name: str, x: Array, y: Array, parts: list[Array], features: tuple[str, ...], task_reason: str = ""
) -> Dataset:
    """Inputs and target standardised by the training and validation rows; y of shape (n,)."""
    seen = np.concatenate(parts[:2])
    if y[seen].max() == y[seen].min():
        raise DataError(
            f"data {name!r}: the target is {y[seen][0]:g} in all {len(seen)} training and validation rows, limit: 2 "
            "different values. Remedy: choose another --target."
        )
    x_shift, x_scale = statistics(x[seen])
    shift, scale = statistics(y[seen, None])
    scaled = (y[:, None] - shift) / scale
    train, valid, test = (Part((x[rows] - x_shift) / x_scale, scaled[rows]) for rows in parts)
    return Dataset(
        name=name,
        task="regression",
        features=features,
        classes=(),
        train=train,
        valid=valid,
        test=test,
        x_shift=x_shift,
        x_scale=x_scale,
        y_shift=float(shift[0]),
        y_scale=float(scale[0]),
        sha256=digest(x, y),
        task_reason=task_reason,
    )


def classification(
    name: str,
    x: Array,
    labels: Array,
    classes: tuple[str, ...],
    parts: list[Array],
    features: tuple[str, ...],
    *,
    scaling: tuple[Array, Array] | None = None,
    task_reason: str = "",
) -> Dataset:
    """Inputs standardised by the training and validation rows, unless scaling (shift, scale) is given."""
    x_shift, x_scale = scaling if scaling is not None else statistics(x[np.concatenate(parts[:2])])
    train, valid, test = (Part((x[rows] - x_shift) / x_scale, labels[rows].astype(np.int32)) for rows in parts)
    return Dataset(
        name=name,
        task="classification",
        features=features,
        classes=classes,
        train=train,
        valid=valid,
        test=test,
        x_shift=x_shift,
        x_scale=x_scale,
        y_shift=0.0,
        y_scale=1.0,
        sha256=digest(x, labels.astype(np.float64)),
        task_reason=task_reason,
    )


def resplit(data: Dataset, validation: float | None, seed: int) -> Dataset:
    """The set with other training and validation rows; test rows and what normalised the rows stay.

    validation: share of the rows of both that validate, None for as many as before. seed: 0 keeps the rows' order.
    """
    if validation is None and not seed:
        return data
    rows, both = len(data.train) + len(data.valid), data.merged
    held = len(data.valid) if validation is None else max(1, round(rows * validation))
    order = np.random.default_rng([seed, 7]).permutation(rows) if seed else np.arange(rows)
    train, valid = (Part(both.x[some], both.y[some]) for some in np.split(order, [rows - held]))
    return replace(data, train=train, valid=valid)


def thinned(data: Dataset, held: int | None) -> Dataset:
    """The set with at most so many validation and so many test rows, evenly spaced among all; None for all of them."""

    def some(part: Part) -> Part:
        if held is None or held >= len(part):
            return part
        rows = np.arange(held) * len(part) // held
        return Part(part.x[rows], part.y[rows])

    return replace(data, valid=some(data.valid), test=some(data.test))


def digest(*arrays: Array) -> str:
    """SHA-256 of the shapes and little-endian float64 values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return found.hexdigest()
