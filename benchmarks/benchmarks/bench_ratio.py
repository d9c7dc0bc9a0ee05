"""Paired ratios: an operation in plain training steps of the same framework, and over the best hand-written code."""

from __future__ import annotations

from benchmarks import games
from benchmarks.amount import COMPILED, PROBLEMS, ROUNDS, some
from benchmarks.frameworks import BACKENDS
from benchmarks.measuring import quartiles
from benchmarks.operations import OPERATIONS
from benchmarks.ratios import cell

LETTERS = some(tuple(OPERATIONS), "a", "d")
Found = dict[tuple[str, str, str], tuple[float, float]]


class Operation:
    """a: Neumann, 5 products; b: CG, 10 steps; c: reverse unroll, 10 steps; d: 10 momentum steps with one-pass."""

    params = (BACKENDS, LETTERS, PROBLEMS)
    param_names = ("backend", "operation", "problem")

    def setup_cache(self) -> Found:
        """Measured once, for both numbers: (ours, the best floor), in training steps."""
        found: Found = {}
        for backend in BACKENDS:
            for letter in LETTERS:
                for name in (name for name in PROBLEMS if name in OPERATIONS[letter].cells):
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


class Momentum:
    """A GAN's step with momentum of a complex coefficient, over the same step with a real one."""

    params = (BACKENDS, (128, 512))
    param_names = ("backend", "width")

    def track_over_real(self, backend: str, width: int) -> float:
        """To stay under 1.10."""
        return quartiles(games.measured(backend, width, 256, count=ROUNDS))[1]

    track_over_real.unit = "steps with real momentum"
