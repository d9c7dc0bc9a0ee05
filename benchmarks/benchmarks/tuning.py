"""What tuning costs: training with a one-pass hyper step every ten steps over plain training, the same steps without.

    python -m benchmarks.tuning --backend torch,jax --problem P1,P2 --compiled --rounds 15

Forms: "step", a Python loop; "run", blocks of ten as one call; "scan", one lax.scan of forty steps (jax), whose plain
training is a scan too. Plain training is SGD with momentum and weight decay: torch.optim eager, optax jitted.
By counting products, 1 + (o + 4h)/10, o and h being the outer gradient's and a Hessian-vector product's cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.frameworks import BACKENDS, side_of
from benchmarks.measuring import quartiles, ratios, rounds
from benchmarks.operations import EVERY, OPERATIONS
from benchmarks.problems import TUNED, problem

BLOCKS = 4
"""Hyper steps a reading."""


def forms(backend: str, name: str, *, compiled: bool) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """form -> (tuned, plain), each of EVERY * BLOCKS training steps."""
    module = side_of(backend)
    here = module.side(problem(name))
    tuner, start = here.one_pass(compiled=compiled)
    batches, held = [here.inner] * EVERY, {"state": start}

    def step() -> None:
        for _ in range(EVERY * BLOCKS):
            held["state"], _ = tuner.step(held["state"], here.inner, here.outer)
        module.wait(held["state"]["params"])

    def run() -> None:
        for _ in range(BLOCKS):
            held["state"], _ = tuner.run(held["state"], batches, here.outer)
        module.wait(held["state"]["params"])

    plain = here.plain_training(EVERY * BLOCKS)
    found: dict[str, Any] = {"step": (step, plain)}
    if hasattr(tuner, "run"):
        found["run"] = run, plain
    if hasattr(here, "scanned") and name != "P3":  # no convolution in jax's loops
        found["scan"] = here.scanned(EVERY * BLOCKS)
    return found


def measured(backend: str, name: str, *, compiled: bool = False, count: int = 15) -> dict[str, list[float]]:
    """form -> tuned over plain, one ratio a round."""
    result = {}
    for form, (tuned, plain) in forms(backend, name, compiled=compiled).items():
        found = rounds({"tuned": tuned, "plain": plain}, count)
        result[form] = ratios(found["tuned"], found["plain"])
    return result


def by_count(name: str) -> float:
    """The least by counting matrix products."""
    return (OPERATIONS["d"].count(problem(name))) / EVERY


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    parser.add_argument("--problem", default=",".join(TUNED), help="P1, P2, P3, P5")
    parser.add_argument("--rounds", type=int, default=15, help="readings of each contestant")
    parser.add_argument("--compiled", action="store_true", help="torch: compile=True (takes minutes)")
    options = parser.parse_args(arguments)
    print(f"{'backend':7} {'on':3} {'form':5} {'over plain':>10} {'quartiles':>13} {'count':>6}", flush=True)  # noqa: T201
    for backend in options.backend.split(","):
        for name in options.problem.split(","):
            for form, found in measured(backend, name, compiled=options.compiled, count=options.rounds).items():
                low, middle, high = quartiles(found)
                line = f"{backend:7} {name:3} {form:5} {middle:10.2f} {low:6.2f}-{high:<6.2f} {by_count(name):6.2f}"
                print(line, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
