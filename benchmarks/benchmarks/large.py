"""One-pass tuning of a network of 100 million weights beside plain training of it: time and peak memory, torch.

    python -m benchmarks.large --width 4096 --layers 6 --rows 8 --steps 20

Dense layers with tanh between them, float32, one batch, SGD with momentum and weight decay; tuning takes a hyper step
of five terms every ten steps, in the learning rate, the decay and the momentum. Each contestant runs in a process of
its own, on one thread. Time is the processor's; the peak is of resident memory less what there was before the network
was made, so that params, momenta and all that a step takes are in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frameworks import side_of
from benchmarks.measuring import processor_time
from benchmarks.memory import GIVES_BACK
from benchmarks.operations import EVERY
from benchmarks.problems import Problem

CONTESTANTS = ("plain", "tuned")
PAGES = 1024 if sys.platform.startswith("linux") else 1
"""Bytes that getrusage counts in."""


def network(width: int, layers: int, rows: int) -> Problem:
    """Layers of width x width, the last one's mean output being what is learnt."""
    rng = np.random.default_rng(20)
    params = {}
    for layer in range(layers):
        params[f"w{layer}"] = rng.standard_normal((width, width), dtype=np.float32) / np.float32(math.sqrt(width))

    def batch() -> tuple[Any, Any]:
        return rng.standard_normal((rows, width), dtype=np.float32), rng.standard_normal(rows, dtype=np.float32)

    return Problem(
        name="large",
        params=params,
        decays={"all": np.float32(0.0)},
        inner=batch(),
        outer=batch(),
        rate=0.1,
        product=2.0,
        outer_cost=1.0,
        network="regression",
    )


def error(p: Any, batch: Any) -> Any:
    """Mean squared error of the last layer's mean."""
    hidden = batch[0]
    for weights in p.values():
        hidden = (hidden @ weights).tanh()
    return ((hidden.mean(1) - batch[1]) ** 2).mean()


def _training(name: str, problem: Problem, steps: int) -> Callable[[], None]:
    here = replace(side_of("torch").side(problem), error=error)
    problem.params.clear()
    if name == "plain":
        train = here.plain_training(steps)
        here.params.clear()  # it trains a copy
        return train
    tuner, start = here.one_pass()
    held, batches = [start], [here.inner] * EVERY
    del start

    def run() -> None:
        for _ in range(steps // EVERY):
            state, _ = tuner.run(held.pop(), batches, here.outer)
            held.append(state)

    return run


def _measured(name: str, width: int, layers: int, rows: int, steps: int) -> dict[str, float]:
    import torch  # loaded before memory at rest is read  # noqa: F401

    side_of("torch")
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train = _training(name, network(width, layers, rows), steps)
    seconds = processor_time(train)
    return {"seconds": seconds, "bytes": PAGES * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest)}


def measured(name: str, *sizes: int) -> dict[str, float]:
    """{"seconds": of one training run, "bytes": its peak}, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.large", "--measure", name, *map(str, sizes)]
    environment = {**os.environ, **GIVES_BACK}
    here = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here, env=environment)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, or with --measure one contestant's numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 4096, "layers": 6, "rows": 8, "steps": 2 * EVERY}
    for size, value in sizes.items():
        parser.add_argument(f"--{size}", type=int, default=value)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        name, *given = options.measure
        print(json.dumps(_measured(name, *map(int, given))))  # noqa: T201
        return 0
    found = {name: measured(name, *(getattr(options, size) for size in sizes)) for name in CONTESTANTS}
    weights = options.layers * options.width**2
    print(f"{1e-6 * weights:.1f}M weights, {options.steps} steps, hyper steps: {options.steps // EVERY}")  # noqa: T201
    for name, row in found.items():
        print(f"{name:6} {row['seconds']:8.1f} s {row['bytes'] / 2**20:8.0f} MiB")  # noqa: T201
    plain, tuned = (found[name] for name in CONTESTANTS)
    seconds, peak = (tuned[key] / plain[key] for key in ("seconds", "bytes"))
    print(f"tuned over plain: time {seconds:.2f}, peak memory {peak:.2f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
