"""A process that has the imports and nothing else, and forks children that it kills. Prints what it found as JSON.

Usage: killer.py instants KILLS | boundaries STRIDE, in a folder with killed.toml.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jinja2  # noqa: F401  (children then need not import it, nor what torch imports at a first vmap)
import torch
import torch.fx.experimental.symbolic_shapes

import nestgrad_lab.experiments.torch_runs  # noqa: F401
from nestgrad_lab.experiments import work
from nestgrad_lab.experiments.cells import choose
from nestgrad_lab.experiments.run import run_experiment
from nestgrad_lab.experiments.spec import DataChoice
from nestgrad_lab.storage.atomic import watch_boundaries

FILES = ("results.csv", "table.md", "table.tex", "summary.json")


def forked(task):
    """The child's process id; it ends without this one's end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            task()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def go(out):
    return lambda: run_experiment("killed.toml", out=Path(out), resume=True)


def contents(out):
    """The hash of every file that the results are in, and of each cell's last checkpoint; older ones may be left."""
    last = [path for cell in Path(out, "cells").iterdir() for path in sorted(cell.glob("step-*"))[-2:]]
    paths = [*(Path(out) / name for name in FILES), *last]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def wrong(out, whole):
    """Why this folder is not as the other, or nothing."""
    rows = Path(out, "results.csv").read_text().splitlines()
    found = contents(out)
    changed = [name for name in {*found, *whole} if found.get(name) != whole.get(name)]
    twice = ["duplicate rows"] if len(rows) != len(set(rows)) else []
    partial = [str(path) for path in Path(out).rglob(".*.partial")]
    return [f"{out}: {what}" for what in [*changed, *twice, *partial]]


def at_random_instants(most):
    began = time.monotonic()
    assert ended(forked(go("whole"))) == 0
    length, whole = time.monotonic() - began, contents("whole")
    draw, kills, rounds, problems = random.Random(0), 0, 0, []  # noqa: S311
    while kills < most:
        out, finished = f"killed-{rounds}", False
        while not finished:
            child = forked(go(out))
            time.sleep(draw.uniform(0.0, 0.4 * length))
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            kills += code == -signal.SIGKILL
            finished = code == 0
            if kills >= most and not finished:
                assert ended(forked(go(out))) == 0
                finished = True
        problems += wrong(out, whole)
        rounds += 1
    return {"kills": kills, "rounds": rounds, "problems": problems}


def at_every_boundary(stride):
    assert ended(forked(go("whole"))) == 0
    whole, at, kills, problems = contents("whole"), 0, 0, []
    while True:
        out = f"killed-{at}"

        def killed(out=out, at=at):
            passed = 0

            def boundary(name):
                nonlocal passed
                passed += 1
                if passed > at:
                    os.kill(os.getpid(), signal.SIGKILL)

            watch_boundaries(boundary)
            go(out)()

        if ended(forked(killed)) == 0:
            return {"kills": kills, "boundaries": at, "problems": problems}
        assert ended(forked(go(out))) == 0
        problems += wrong(out, whole)
        kills, at = kills + 1, at + stride


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.SECONDS = 0.0
    choose(DataChoice(name="digits"))
    kind, number = sys.argv[1], int(sys.argv[2])
    print(json.dumps({"instants": at_random_instants, "boundaries": at_every_boundary}[kind](number)))
