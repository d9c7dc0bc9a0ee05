"""How much asv measures, as the environment says.

NESTGRAD_BENCH_ROUNDS (15), NESTGRAD_BENCH_PROBLEMS (P1) and NESTGRAD_BENCH_COMPILED (0; 1 also compiles in torch, which
takes minutes). Up to 3 rounds tell only that benchmarks run: then each class of number is left with one hypergradient
and, where it has any, one block of tuning for each backend.
"""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("NESTGRAD_BENCH_ROUNDS", "15"))
PROBLEMS = tuple(os.environ.get("NESTGRAD_BENCH_PROBLEMS", "P1").split(","))
COMPILED = os.environ.get("NESTGRAD_BENCH_COMPILED", "0") == "1"
SMOKE = ROUNDS <= 3


def some(names: tuple[str, ...], *kept: str) -> tuple[str, ...]:
    """All names, or in a smoke run those kept."""
    return tuple(name for name in names if name in kept) if SMOKE else names
