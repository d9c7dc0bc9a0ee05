"""Paired ratios: an operation in plain training steps of the same framework, and over the best hand-written code.

NESTGRAD_BENCH_ROUNDS (15), NESTGRAD_BENCH_PROBLEMS (P1) and NESTGRAD_BENCH_COMPILED (0; 1 also compiles in torch, which
takes minutes) say how much is measured.
"""

from __future__ import annotations

import os

from benchmarks.frameworks import BACKENDS
from benchmarks.operations import OPERATIONS
from benchmarks.ratios import cell

ROUNDS = int(os.environ.get("NESTGRAD_BENCH_ROUNDS", "15"))
PROBLEMS = tuple(os.environ.get("NESTGRAD_BENCH_PROBLEMS", "P1").split(","))
COMPILED = os.environ.get("NESTGRAD_BENCH_COMPILED", "0") == "1"
Found = dict[tuple[str, str, str], tuple[float, float]]


class Operation:
    """a: Neumann, 5 products; b: CG, 10 steps; c: reverse unroll, 10 steps; d: 10 momentum steps with one-pass."""

    params = (BACKENDS, tuple(OPERATIONS), PROBLEMS)
    param_names = ("backend", "operation", "problem")

    def setup_cache(self) -> Found:
        """Measured once, for both numbers: (ours, the best floor), in training steps."""
        found: Found = {}
        for backend in BACKENDS:
            for letter, operation in OPERATIONS.items():
                for name in (name for name in PROBLEMS if name in operation.cells):
                    try:
                        measured = cell(backend, letter, name, compiled=COMPILED, count=ROUNDS)
                    except NotImplementedError:
                        continue
                    if measured.ours is not None:
                        found[backend, letter, name] = measured.ours[1], measured.best[1]
        return found

    setup_cache.timeout = 7200

    def setup(self, found: Found, backend: str, letter: str, name: str) -> None:
        if (backend, letter, name) not in found:
            raise NotImplementedError(f"{backend} has no {letter} on {name}")

    def track_steps(self, found: Found, backend: str, letter: str, name: str) -> float:
        """Median time of ours in training steps."""
        return found[backend, letter, name][0]

    track_steps.unit = "training steps"

    def track_over_floor(self, found: Found, backend: str, letter: str, name: str) -> float:
        """Ours over the fastest hand-written form; to stay under 1.10."""
        ours, floor = found[backend, letter, name]
        return ours / floor

    track_over_floor.unit = "floors"
