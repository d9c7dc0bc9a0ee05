"""The user's own table: a CSV file with a header, numbers in every input column, any labels as target."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nestgrad_lab.data.dataset import MIN_ROWS, Array, Dataset, Task, classification, regression, shuffled
from nestgrad_lab.errors import DataError, OptionError

Columns = dict[str, list[str]]
TASKS = ("regression", "classification")
MAX_WHOLE_CLASSES = 10
"""A target of whole numbers with at most so many different values is taken for classes, unless --task says else."""
LARGEST = 1e100
"""Larger numbers would overflow where they are squared."""
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-nan", "?"})


def table(path: Path, *, target: str | None, task: str | None, drop: tuple[str, ...], seed: int) -> Dataset:
    """The table in the file, 60/20/20 by the seed; raises DataError naming the row and the column."""
    frame = _read(path)
    columns, rows = list(frame), len(next(iter(frame.values())))
    if target is None:
        raise OptionError(
            f"--data {path}: 0 target columns, limit 1 of {_some(columns)}. Remedy: name it with --target COLUMN."
        )
    for option, name in [("--target", target), *(("--drop", name) for name in drop)]:
        if name not in columns:
            raise DataError(
                f"{path}: no column {name!r} ({option}), limit: {_some(columns)}. Remedy: name one of these."
            )
    features = tuple(name for name in columns if name != target and name not in drop)
    if not features or target in drop:
        raise DataError(
            f"{path}: {len(features)} input columns beside {target!r}, limit: at least 1. Remedy: keep some."
        )
    if rows < MIN_ROWS:
        raise DataError(f"{path}: {rows} rows, limit: at least {MIN_ROWS}. Remedy: give more data.")
    x = np.stack([_numbers(path, frame, name, "leave it out with --drop") for name in features], axis=1)
    kind, reason = (_known(task), "") if task is not None else _found(frame, target)
    parts = shuffled(rows, seed)
    if kind == "regression":
        y = _numbers(path, frame, target, "say --task classification")
        return regression(path.stem, x, y, parts, features, reason)
    labels, classes = _labels(path, frame, target, parts)
    return classification(path.stem, x, labels, classes, parts, features, task_reason=reason)


def _read(path: Path) -> Columns:
    """Every cell as text without blanks around it, by column."""
    import pandas as pd  # noqa: PLC0415  (one second, when cold)

    try:
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Remedy: save the file as UTF-8.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: 0 columns, limit: at least 2. Remedy: give a CSV file with a header.") from None
    except pd.errors.ParserError as error:
        detail = " ".join(str(error).split())
        raise DataError(
            f"{path}: rows differ in length ({detail}). Remedy: give every row as many cells as the header."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Remedy: check the file's permissions.") from None
    header = [str(cell).strip() for cell in raw.iloc[0]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: {header.count(twice[0])} columns are called {twice[0]!r}, limit 1. Remedy: rename one."
        )
    cells = raw.iloc[1:].fillna("").to_numpy(dtype=str)
    return {name: [cell.strip() for cell in column] for name, column in zip(header, cells.T, strict=True)}


def _numbers(path: Path, frame: Columns, name: str, otherwise: str) -> Array:
    """The column as finite float64; raises DataError at the first cell that is none. Rows below the header, from 1."""
    cells = frame[name]
    for row in _missing(cells):
        what = f"is missing ({cells[row]!r})" if cells[row] else "is empty"
        raise DataError(
            f"{path}: row {row + 1} of column {name!r} {what}, limit: a finite number in every row. "
            f"Remedy: fill the cell in, remove the row, or {otherwise}."
        )
    values = np.array([_number(cell) for cell in cells])
    for row in np.flatnonzero(~(np.abs(values) <= LARGEST)):
        what = "is text" if np.isnan(values[row]) else f"is beyond ±{LARGEST:g}"
        raise DataError(
            f"{path}: row {row + 1} of column {name!r} {what}: {_short(cells[row])!r}, limit: a finite "
            f"number in every row. Remedy: write it as a number, or {otherwise}."
        )
    return values


def _missing(cells: list[str]) -> list[int]:
    return [row for row, cell in enumerate(cells) if cell.lower() in MISSING]


def _number(cell: str) -> float:
    try:
        return float(cell) if "_" not in cell else float("nan")  # Python alone reads 1_000 as a number
    except ValueError:
        return float("nan")


def _found(frame: Columns, target: str) -> tuple[Task, str]:
    """The task that the target column asks for, and why."""
    values = np.array([_number(cell) for cell in frame[target]])
    text = [
        cell
        for cell, value in zip(frame[target], values, strict=True)
        if np.isnan(value) and cell.lower() not in MISSING
    ]
    # One stray word among numbers is a slip to be reported, not a class.
    if len(text) > len(values) // 2:
        return "classification", f"column {target!r} holds text"
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    if not text and len(distinct) <= MAX_WHOLE_CLASSES and np.all(distinct == np.round(distinct)):
        return "classification", f"column {target!r} holds {len(distinct)} different whole numbers"
    return "regression", f"column {target!r} holds numbers"


def _labels(path: Path, frame: Columns, target: str, parts: list[Array]) -> tuple[Array, tuple[str, ...]]:
    cells = frame[target]
    for row in _missing(cells):
        raise DataError(
            f"{path}: row {row + 1} of column {target!r} has no class ({cells[row]!r}), limit: a label in every row. "
            "Remedy: fill the cell in, or remove the row."
        )
    numbers = np.array([_number(cell) for cell in cells])
    keys = numbers if np.isfinite(numbers).all() else np.array(cells, dtype=str)  # 1 and 1.0 are one class
    classes, labels = np.unique(keys, return_inverse=True)
    if len(classes) < 2:  # noqa: PLR2004
        raise DataError(
            f"{path}: column {target!r} holds 1 class only, {_short(cells[0])!r}, limit: at least 2. "
            "Remedy: choose another --target."
        )
    if 2 * len(classes) > len(cells):
        raise DataError(
            f"{path}: column {target!r} holds {len(classes)} classes in {len(cells)} rows, limit: half as many "
            "as rows. Remedy: say --task regression, or choose another --target."
        )
    if len(np.unique(labels[parts[0]])) < 2:  # noqa: PLR2004
        raise DataError(
            f"{path}: the {len(parts[0])} training rows hold 1 class of column {target!r} only, limit: at least 2. "
            "Remedy: give more rows of the other classes, or another --seed."
        )
    return labels, tuple(f"{label:g}" if isinstance(label, float) else str(label) for label in classes.tolist())


def _known(task: str) -> Task:
    return "classification" if task == "classification" else "regression"


def _some(columns: list[str], most: int = 12) -> str:
    named = ", ".join(_short(name) for name in columns[:most])
    return named if len(columns) <= most else f"{named}, … ({len(columns)} in all)"


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
