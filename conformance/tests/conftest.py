"""Harnesses to try the suite's doors on, and a pytest run of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "example_backend" / "src"

TOY = """
import dataclasses
from nestgrad_reference.testing import harness as whole

# Nothing is cut off, so the check of detached hyperparameters fails. float32 is claimed, for checks without arrays.
harness = dataclasses.replace(whole, detach=lambda x: x, dtypes=("float64", "float32"))
seen = []

def on_device(device="cpu"):
    seen.append(device)
    return harness

number = 3

def not_a_harness():
    return number
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module with a harness that fails one check, and with things that are no harness."""
    (tmp_path / "nestgrad_toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import nestgrad_toy

    yield nestgrad_toy
    del sys.modules["nestgrad_toy"]


@pytest.fixture
def example(monkeypatch):
    """The example backend's harness, from its source: it belongs to no workspace."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from nestgrad_example.testing import harness

    return harness


@pytest.fixture
def run_pytest(tmp_path):
    """Run pytest in an empty folder; returns what subprocess.run returns."""

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *map(str, arguments)]
        paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def run_suite(run_pytest):
    """Run `pytest --pyargs nestgrad_conformance` on a harness."""

    def run(harness, *arguments):
        return run_pytest("--pyargs", "nestgrad_conformance", f"--nestgrad-harness={harness}", *arguments)

    return run
