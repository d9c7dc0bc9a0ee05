"""From what the user named to a data set."""

from __future__ import annotations

from pathlib import Path

from nestgrad_lab.data.dataset import Dataset
from nestgrad_lab.data.digits import digits
from nestgrad_lab.data.images import FASHION_MNIST, fashion_mnist
from nestgrad_lab.data.table import TASKS, table
from nestgrad_lab.data.uci import SETS, uci
from nestgrad_lab.errors import DataError, OptionError


def load(
    name: str, *, target: str | None = None, task: str | None = None, drop: tuple[str, ...] = (), seed: int = 0
) -> Dataset:
    """The data set called `digits`, `fashion-mnist` or `uci/NAME`, or the table in a CSV file.

    target, task, drop: for a CSV file only. seed: draws the split, where the data set has none of its own. Raises
    DataError or OptionError.
    """
    named = name in {"digits", FASHION_MNIST} or name.startswith("uci/")
    if named and (target is not None or task is not None or drop):
        raise OptionError(
            f"--data {name}: has a target and a task of its own, limit: no --target, --task or --drop. "
            "Remedy: leave them out, or name a CSV file."
        )
    if name == "digits":
        return digits(seed)
    if name == FASHION_MNIST:
        return fashion_mnist()
    if name.startswith("uci/"):
        return uci(name.removeprefix("uci/"))
    if task is not None and task not in TASKS:
        raise OptionError(f"--task {task!r}, limit: {' or '.join(TASKS)}. Remedy: name one, or leave --task out.")
    if not Path(name).is_file():
        there = ", ".join(["digits", FASHION_MNIST, *(f"uci/{known}" for known in SETS)])
        what = "is a folder" if Path(name).is_dir() else "no such file"
        raise DataError(f"--data {name!r}: {what}, limit: a CSV file or one of {there}. Remedy: check the path.")
    return table(Path(name), target=target, task=task, drop=drop, seed=seed)
