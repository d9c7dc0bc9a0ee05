"""A small data set and small experiment files."""

import csv

import numpy as np
import pytest

from nestgrad_lab.data import dataset

SMALL = """
title = "small"
data = ["uci/small"]
algorithms = {algorithms}
starts = {starts}
steps = {steps}
hidden = 6
dtype = "float64"
backend = "{backend}"
resamples = 50
{more}
"""


@pytest.fixture
def small(lab, monkeypatch):
    """A table of 60 rows in place of the UCI set, and a function that runs an experiment on it: its rows by name."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = np.sin(x[:, 0]) + x[:, 1]
    data = dataset.regression("uci/small", x, y, dataset.shuffled(60, 0), ("a", "b", "c"))
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", lambda name: data)
    return SmallLab(lab, data)


class SmallLab:
    """Runs of one experiment's file after the other."""

    def __init__(self, lab, data):
        self.lab, self.data, self.folder = lab, data, lab.folder

    def write(self, algorithms, *, starts=2, steps=20, backend="torch", more="", name="small"):
        text = SMALL.format(
            algorithms=list(algorithms), starts=starts, steps=steps, backend=backend, more=more
        )  # fmt: skip
        (self.folder / f"{name}.toml").write_text(text.replace("'", '"'), encoding="utf-8")
        return f"{name}.toml"

    def __call__(self, algorithms, *options, out="out", **settings):
        result = self.lab("experiment", self.write(algorithms, **settings), *options, "--out", out)
        assert result.exit_code == 0, result.output
        return self.rows(out)

    def rows(self, out="out"):
        with (self.folder / out / "results.csv").open(newline="") as file:
            header, *lines = csv.reader(file)
        columns = zip(*lines, strict=True)
        return {name: np.array(column) for name, column in zip(header, columns, strict=True)}
