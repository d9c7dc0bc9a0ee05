"""Our library beside the best hand-written code, in units of one plain training step of the same framework.

    python -m benchmarks.ratios --backend torch --op a,b --problem P1,P2 --compiled --rounds 21

Each line is one cell: the unit in milliseconds; the least that counting operations allows; the fastest hand-written
form and its time in units; ours, with quartiles; ours over that floor. Everything is compared with a float64 reference
before it is timed (limit 1e-3), in one thread, in processor time, in rounds of shuffled order; figures are medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.frameworks import BACKENDS, floors_of, side_of
from benchmarks.measuring import quartiles, ratios, rounds
from benchmarks.operations import OPERATIONS
from benchmarks.problems import PROBLEMS, problem

LIMIT = 1e-3
HEADER = (
    f"{'backend':7} {'operation':38} {'on':3} {'unit ms':>8} {'count':>6} {'floor':>6} {'form':9} {'ours':>6} "
    f"{'quartiles':>13} {'over':>6}"
)


@dataclass(frozen=True)
class Cell:
    """One line. forms: the hand-written forms' times in units; ours: None where the backend has no such call yet."""

    backend: str
    letter: str
    name: str
    unit: float
    count: float
    forms: dict[str, tuple[float, float, float]]
    ours: tuple[float, float, float] | None

    @property
    def best(self) -> tuple[str, float]:
        """(the fastest form, its time in units)."""
        form = min(self.forms, key=lambda name: self.forms[name][1])
        return form, self.forms[form][1]

    def line(self) -> str:
        """The cell as HEADER has it."""
        form, floor = self.best
        start = f"{self.backend:7} {OPERATIONS[self.letter].title:38} {self.name:3} {1e3 * self.unit:8.3f} "
        start += f"{self.count:6.1f} {floor:6.2f} {form:9}"
        if self.ours is None:
            return f"{start} {'-':>6}"
        low, middle, high = self.ours
        return f"{start} {middle:6.2f} {low:6.2f}-{high:<6.2f} {middle / floor:6.2f}"


def forms_of(backend: str, name: str, *, compiled: bool) -> tuple[str, ...]:
    """The hand-written forms worth timing: no convolution in jax's loops, and torch's compiler only when asked."""
    if backend == "jax":
        return ("unrolled",) if name == "P3" else ("scan", "unrolled")
    return ("eager", "traced", "compiled") if compiled else ("eager", "traced")


def contestants(
    backend: str, letter: str, name: str, *, compiled: bool, forms: Sequence[str] | None = None
) -> dict[str, Callable[[], Any]]:
    """name -> call, "unit" and "ours" among them; each that has an answer is checked against the reference first."""
    module, floors = side_of(backend), floors_of(backend)
    here = module.side(problem(name))
    calls: dict[str, Callable[[], Any]] = {"unit": here.unit()}
    for form in forms or forms_of(backend, name, compiled=compiled):
        calls[form] = floors.floor(here, letter, form)
        _check(f"{backend} {letter} {name} {form}", letter, name, calls[form]())
    try:
        ours = here.ours(letter, compiled=compiled)
    except NotImplementedError:
        return calls
    _check(f"{backend} {letter} {name} ours", letter, name, module.answer(letter, ours()))
    calls["ours"] = lambda: module.wait(ours())
    return calls


def _check(what: str, letter: str, name: str, found: Sequence[Any]) -> None:
    from benchmarks.floors.reference import reference, relative_error

    expected = reference(name, letter)
    error = relative_error([host(value) for value in found[: len(expected)]], expected)
    if not error <= LIMIT:
        raise RuntimeError(f"{what}: relative error {error:.1e}, limit {LIMIT:.0e}: not the same work, so not timed")


def host(value: Any) -> Any:
    """A torch tensor detached, a jax array as NumPy's: what relative_error takes."""
    import numpy as np

    return value.detach() if hasattr(value, "detach") else np.array(value)


def cell(
    backend: str, letter: str, name: str, *, compiled: bool = False, count: int = 21, forms: Sequence[str] | None = None
) -> Cell:
    """One operation on one problem, measured."""
    found = rounds(contestants(backend, letter, name, compiled=compiled, forms=forms), count)
    units = {call: quartiles(ratios(times, found["unit"])) for call, times in found.items() if call != "unit"}
    ours = units.pop("ours", None)
    unit = quartiles(found["unit"])[1]
    return Cell(backend, letter, name, unit, OPERATIONS[letter].count(problem(name)), units, ours)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    parser.add_argument("--op", default=",".join(OPERATIONS), help="a Neumann, b CG, c unroll, d one-pass")
    parser.add_argument("--problem", default=",".join(PROBLEMS), help="P1 to P4")
    parser.add_argument("--rounds", type=int, default=21, help="readings of each contestant")
    parser.add_argument("--compiled", action="store_true", help="torch: compile=True, and the compiled floor (minutes)")
    options = parser.parse_args(arguments)
    print(HEADER, flush=True)  # noqa: T201
    for backend in options.backend.split(","):
        for letter in options.op.split(","):
            for name in options.problem.split(","):
                if name in OPERATIONS[letter].cells:
                    measured = cell(backend, letter, name, compiled=options.compiled, count=options.rounds)
                    print(measured.line(), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
