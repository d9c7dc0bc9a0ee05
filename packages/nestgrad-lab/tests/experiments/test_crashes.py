"""An experiment that is killed goes on to the same bytes. Children are forked from a process that has the imports."""

import hashlib
import os
import random
import signal
import sys
import time

import pytest

from nestgrad_lab.errors import RunFolderError
from nestgrad_lab.experiments import cells
from nestgrad_lab.experiments.run import run_experiment
from nestgrad_lab.storage.atomic import watch_boundaries

KILLS = int(os.environ.get("NESTGRAD_KILLS", "60"))
STRIDE = int(os.environ.get("NESTGRAD_STRIDE", "5"))
"""Every so many boundaries a kill; 1 in a long session, which takes 300 kills too."""
FILES = ("results.csv", "table.md", "table.tex", "summary.json")
TEXT = """
title = "killed"
data = ["digits"]
algorithms = ["Random", "Ours WD+LR+M"]
starts = 2
steps = 60
batch = 20
hidden = 4
resamples = 20
backend = "{backend}"
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The file's name, in a folder of its own; a checkpoint at every look."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "SECONDS", 0.0)
    (tmp_path / "killed.toml").write_text(TEXT.format(backend="torch"))
    import jinja2  # noqa: F401  (children then need not import it, nor what torch imports at a first vmap)
    import torch
    import torch.fx.experimental.symbolic_shapes

    import nestgrad_lab.experiments.torch_runs  # noqa: F401
    from nestgrad_lab.experiments.cells import choose
    from nestgrad_lab.experiments.spec import DataChoice

    torch.set_num_threads(1)
    choose(DataChoice(name="digits"))
    return tmp_path


def forked(work):
    """The child's process id; it ends without pytest's own end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def go(out, *, resume=True):
    return lambda: run_experiment("killed.toml", out=out, resume=resume)


def contents(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def checkpoints(folder):
    """The last arrays of every cell, whole."""
    files = sorted((folder / "cells").rglob("*.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_at_random_instants_it_goes_on_to_the_same_bytes(experiment):
    whole, killed = experiment / "whole", experiment / "killed"
    began = time.monotonic()
    assert ended(forked(go(whole))) == 0
    length = time.monotonic() - began
    draw, kills, rounds = random.Random(0), 0, 0  # noqa: S311
    while kills < KILLS:
        out, finished = killed / str(rounds), False
        while not finished:
            child = forked(go(out))
            time.sleep(draw.uniform(0.0, 0.4 * length))
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            finished, kills = code == 0, kills + (code == -signal.SIGKILL)
            if kills >= KILLS and not finished:
                assert ended(forked(go(out))) == 0
                finished = True
        assert contents(out) == contents(whole)
        assert checkpoints(out) == checkpoints(whole)
        rows = (out / "results.csv").read_text().splitlines()
        assert len(rows) == len(set(rows)) == 5
        rounds += 1


def test_killed_at_every_boundary_of_the_disk_it_goes_on_to_the_same_bytes(experiment):
    whole, at = experiment / "whole", 0
    text = TEXT.replace('"Random", ', "").replace("steps = 60", "steps = 30")
    (experiment / "killed.toml").write_text(text.format(backend="torch"))
    assert ended(forked(go(whole))) == 0
    while True:
        out = experiment / f"killed-{at}"

        def killed(out=out, at=at):
            passed = 0

            def boundary(name):
                nonlocal passed
                passed += 1
                if passed > at:
                    os._exit(9)

            watch_boundaries(boundary)
            go(out)()

        code = ended(forked(killed))
        if code == 0:
            break
        assert code == 9
        assert ended(forked(go(out))) == 0
        assert contents(out) == contents(whole), f"killed at boundary {at}"
        assert not list(out.rglob(".*.partial"))
        at += STRIDE
    assert at > 50


def test_asked_to_stop_it_saves_and_goes_on_to_the_same_bytes(experiment, monkeypatch):
    whole, stopped = experiment / "whole", experiment / "stopped"
    assert go(whole)() == "finished"
    monkeypatch.setattr(cells, "SECONDS", 1e9)
    looks = 0

    def count(inner):
        def at(*arguments):
            nonlocal looks
            looks += 1
            if looks == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return inner(*arguments)

        return at

    monkeypatch.setattr(cells._Seen, "look", count(cells._Seen.look))
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
    from nestgrad_lab.experiments.folder import ExperimentFolder

    with ExperimentFolder(out).locked():
        child = forked(go(out))
        assert ended(child) == 1
    assert go(out)() == "finished"
