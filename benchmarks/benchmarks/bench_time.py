"""Seconds: compared commit with commit on one machine, never across machines."""

from __future__ import annotations

from benchmarks.frameworks import BACKENDS, side_of
from benchmarks.problems import problem


class Operation:
    """On P1. a: Neumann, 5 products; d: ten momentum steps with one-pass."""

    params = (BACKENDS, ("a", "d"))
    param_names = ("backend", "operation")

    def setup(self, backend: str, letter: str) -> None:
        self.module = side_of(backend)
        self.call = self.module.side(problem("P1")).ours(letter)
        self.module.wait(self.call())

    def time_call(self, backend: str, letter: str) -> None:
        self.module.wait(self.call())
