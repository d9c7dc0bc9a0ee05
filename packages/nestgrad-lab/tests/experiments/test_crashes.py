"""An experiment that is killed goes on to the same bytes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nestgrad import NestgradWarning
from nestgrad_lab.errors import RunFolderError
from nestgrad_lab.experiments import work
from nestgrad_lab.experiments.cells import cells_of
from nestgrad_lab.experiments.execute import run_here, run_on_ray
from nestgrad_lab.experiments.folder import ExperimentFolder
from nestgrad_lab.experiments.run import run_experiment
from nestgrad_lab.experiments.spec import find_experiment

KILLS = int(os.environ.get("NESTGRAD_KILLS", "60"))
STRIDE = int(os.environ.get("NESTGRAD_STRIDE", "5"))
"""Every so many boundaries a kill; 1 in a long session, which takes 300 kills too."""
TEXT = """
title = "killed"
data = ["digits"]
algorithms = ["Random", "Ours WD+LR+M"]
starts = 2
steps = 60
batch = 20
hidden = 4
resamples = 20
backend = "torch"
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A folder with killed.toml; a checkpoint at every look."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "SECONDS", 0.0)
    (tmp_path / "killed.toml").write_text(TEXT)
    return tmp_path


def killed(folder, kind, number):
    """What the killer found, in a process of its own: forks need one without threads."""
    command = [sys.executable, str(Path(__file__).with_name("killer.py")), kind, str(number)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_killed_at_random_instants_it_goes_on_to_the_same_bytes(experiment):
    found = killed(experiment, "instants", KILLS)
    assert found["problems"] == []
    assert found["kills"] >= KILLS


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_killed_at_boundaries_of_the_disk_it_goes_on_to_the_same_bytes(experiment):
    (experiment / "killed.toml").write_text(TEXT.replace('"Random", ', "").replace("steps = 60", "steps = 30"))
    found = killed(experiment, "boundaries", STRIDE)
    assert found["problems"] == []
    assert found["boundaries"] > 50


def go(out, *, resume=True):
    return lambda: run_experiment("killed.toml", out=out, resume=resume)


def contents(folder):
    names = ("results.csv", "table.md", "table.tex", "summary.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_asked_to_stop_it_saves_and_goes_on_to_the_same_bytes(experiment, monkeypatch):
    whole, stopped = experiment / "whole", experiment / "stopped"
    assert go(whole)() == "finished"
    monkeypatch.setattr(work, "SECONDS", 1e9)
    looks = 0

    def count(inner):
        def at(*arguments):
            nonlocal looks
            looks += 1
            if looks == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return inner(*arguments)

        return at

    monkeypatch.setattr(work._Seen, "look", count(work._Seen.look))
    assert go(stopped, resume=False)() == "interrupted"
    assert (stopped / "report.html").read_text().count("interrupted") == 1
    assert go(stopped)() == "finished"
    assert contents(stopped) == contents(whole)


def test_a_folder_is_worked_on_by_one_process_and_taken_up_with_the_same_options_only(experiment):
    out = experiment / "out"
    assert go(out)() == "finished"
    with pytest.raises(RunFolderError, match="Remedy: pass --resume"):
        run_experiment("killed.toml", out=out)
    with pytest.raises(RunFolderError, match=r"other options \(fingerprint, given\), limit: the same"):
        run_experiment("killed.toml", out=out, resume=True, seed=1)
    (experiment / "taken").mkdir()
    (experiment / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files"):
        run_experiment("killed.toml", out=experiment / "taken")
    with ExperimentFolder(out).locked():
        other = [sys.executable, "-m", "nestgrad_lab", "experiment", "killed.toml", "--out", "out", "--resume"]
        done = subprocess.run(other, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"worked on by process {os.getpid()}" in done.stderr
    assert go(out)() == "finished"


@pytest.mark.parametrize(("kept", "said"), [(1, "it goes on from step"), (0, "the cell begins anew")])
def test_a_damaged_checkpoint_is_told_of_and_the_numbers_are_the_same(experiment, kept, said, monkeypatch):
    whole, out = experiment / "whole", experiment / "out"
    assert go(whole)() == "finished"
    assert go(out)() == "finished"
    for name in contents(whole):
        (out / name).unlink()
    for cell in (out / "cells").iterdir():
        for path in sorted(cell.glob("*.safetensors"))[kept:]:
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(NestgradWarning, match=f"passed over, and {said}"):
        assert go(out)() == "finished"
    assert contents(out) == contents(whole)


class RayOfOne:
    """What execute asks of Ray, each task run at once in this process; its name stands for its result."""

    def __init__(self):
        self.results = []

    def remote(self, **options):
        def of(function):
            def task(*arguments):
                self.results.append(function(*arguments))
                return len(self.results) - 1

            return SimpleNamespace(remote=task)

        return of

    def wait(self, tasks, timeout):
        return tasks, []

    def get(self, task):
        return self.results[task]


@pytest.mark.parametrize("harm", ["cut", "renamed"])
def test_a_cluster_computes_again_what_is_damaged_or_of_another_cell(experiment, monkeypatch, harm):
    """And takes what is whole as it is."""
    ray = RayOfOne()
    monkeypatch.setattr("nestgrad_lab.experiments.execute.load_ray", lambda address: ray)
    first, second = cells_of(find_experiment("killed.toml"))
    pairs = [(cell, experiment / cell.name) for cell in (first, second)]
    assert run_here(pairs, lambda steps: None, lambda: False)
    whole = work.result_of(first, experiment / first.name)
    for path in (experiment / first.name).glob("*.safetensors"):
        if harm == "cut":
            path.write_bytes(path.read_bytes()[:-1])
    if harm == "renamed":
        shutil.rmtree(experiment / first.name)
        shutil.copytree(experiment / second.name, experiment / first.name)
    assert run_on_ray(pairs, lambda steps: None, lambda: False, "local")
    assert len(ray.results) == 1
    again = work.result_of(first, experiment / first.name)
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)
