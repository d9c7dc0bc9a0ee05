"""From what the user named to a data set."""

from __future__ import annotations

from pathlib import Path

from nestgrad_lab.data.cifar import CIFAR_10, CIFAR_10_SUBSET, cifar_10, cifar_10_subset
from nestgrad_lab.data.dataset import Dataset
from nestgrad_lab.data.digits import digits
from nestgrad_lab.data.images import FASHION_MNIST, MNIST, fashion_mnist, mnist
from nestgrad_lab.data.table import TASKS, table
from nestgrad_lab.data.text import VOCABULARY, WIKITEXT_2, WINDOW, wikitext_2
from nestgrad_lab.data.uci import SETS, uci
from nestgrad_lab.errors import DataError, OptionError

IMAGES = {
    MNIST: mnist,
    FASHION_MNIST: fashion_mnist,
    CIFAR_10: cifar_10,
    CIFAR_10_SUBSET: cifar_10_subset,
}
"""The sets of images by name."""


def load(
    name: str,
    *,
    target: str | None = None,
    task: str | None = None,
    drop: tuple[str, ...] = (),
    seed: int = 0,
    window: int | None = None,
    vocabulary: int | None = None,
) -> Dataset:
    """The data set called `digits`, `uci/NAME`, `wikitext-2`, or as in IMAGES, or the table in a CSV file.

    target, task, drop: for a CSV file only. seed: draws the split, where the data set has none of its own. window,
    vocabulary: for a text only. Raises DataError or OptionError.
    """
    named = name in {"digits", WIKITEXT_2, *IMAGES} or name.startswith("uci/")
    if named and (target is not None or task is not None or drop):
        raise OptionError(
            f"--data {name}: has a target and a task of its own, limit: no --target, --task or --drop. "
            "Remedy: leave them out, or name a CSV file."
        )
    if name != WIKITEXT_2 and (window is not None or vocabulary is not None):
        raise OptionError(
            f"data {name!r}: window {window}, vocabulary {vocabulary}, limit: {WIKITEXT_2} alone has them. "
            "Remedy: leave them out."
        )
    if name == "digits":
        return digits(seed)
    if name == WIKITEXT_2:
        return wikitext_2(WINDOW if window is None else window, VOCABULARY if vocabulary is None else vocabulary)
    if name in IMAGES:
        return IMAGES[name]()
    if name.startswith("uci/"):
        return uci(name.removeprefix("uci/"))
    if task is not None and task not in TASKS:
        raise OptionError(f"--task {task!r}, limit: {' or '.join(TASKS)}. Remedy: name one, or leave --task out.")
    if not Path(name).is_file():
        there = ", ".join(["digits", *IMAGES, WIKITEXT_2, *(f"uci/{known}" for known in SETS)])
        what = "is a folder" if Path(name).is_dir() else "no such file"
        raise DataError(f"--data {name!r}: {what}, limit: a CSV file or one of {there}. Remedy: check the path.")
    return table(Path(name), target=target, task=task, drop=drop, seed=seed)
