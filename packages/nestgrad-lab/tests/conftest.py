"""What the lab's tests share: a folder to run in, small tables, and the command called in this process."""

import importlib.util
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nestgrad_lab.cli import app


class Lab:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def tune(self, *arguments: object, out: str = "out") -> "Run":
        """A run that ends well."""
        result = self("tune", *arguments, "--out", out)
        assert result.exit_code == 0, result.output
        return Run(self.folder / out, result.output)

    def read(self, out: str) -> "Run":
        """A run folder that is there."""
        return Run(self.folder / out)

    def write_table(self, name: str = "table.csv", *, kind: str = "regression", rows: int = 60, seed: int = 0) -> str:
        """A table of two inputs a, b and a target y that follows them."""
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, rows))
        y = np.sin(2 * a) + b if kind == "regression" else np.where(a + b > 0, "high", "low")
        lines = ["a,b,y", *(f"{a[i]},{b[i]},{y[i]}" for i in range(rows))]
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    def contents(self) -> set[str]:
        """Every path in the folder."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


class Run:
    """A run folder, read."""

    def __init__(self, path: Path, output: str = "") -> None:
        self.path, self.output = path, output

    @property
    def status(self) -> dict:
        return json.loads((self.path / "status.json").read_text())

    @property
    def summary(self) -> dict:
        return json.loads((self.path / "summary.json").read_text())

    @property
    def config(self) -> dict:
        return tomllib.loads((self.path / "config.toml").read_text())

    @property
    def tuned(self) -> dict:
        return tomllib.loads((self.path / "tuned.toml").read_text())

    @property
    def metrics_text(self) -> str:
        return (self.path / "metrics.csv").read_text()

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        header, *lines = [line.split(",") for line in self.metrics_text.splitlines()]
        return {
            name: np.array(column if name == "status" else [float(cell) for cell in column])
            for name, column in zip(header, zip(*lines, strict=True), strict=True)
        }


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that the lab trains with, in turn."""
    if importlib.util.find_spec(f"nestgrad_{request.param}") is None:
        pytest.skip(f"nestgrad_{request.param} is not installed")
    return request.param


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)
