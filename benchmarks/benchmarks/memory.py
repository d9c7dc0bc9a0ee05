"""The peak of one warm call over rest, in units of the peak of one plain training step: a Markdown table.

    python -m benchmarks.memory --problem P2 --backend torch,jax

Each cell is measured in a process of its own, from the kernel's account of resident memory (Linux), with an allocator
told to give large blocks back at once; so all that a call takes is in it, whoever takes it.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frameworks import BACKENDS, side_of
from benchmarks.methods import methods
from benchmarks.operations import EVERY
from benchmarks.problems import problem

UNIT = "a plain training step"
ROWS = (
    "identity",
    "neumann",
    "neumann 50",
    "cg",
    "minres",
    "gmres",
    "nystrom",
    "darts",
    "unrolled",
    "unrolled, iterates kept",
    "unrolled, sqrt",
    "one-pass, steps",
    "one-pass, run",
)
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
MISSING = "-"


def peak(backend: str, name: str, row: str) -> int:
    """Bytes of resident memory that one warm call takes at its peak, in a fresh process.

    NotImplementedError where the backend lacks the method, or the kernel keeps no such account.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise NotImplementedError("peaks are read from /proc/self/status, which this system does not have")
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", backend, name, row]
    here = Path(__file__).parents[1]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, cwd=here, env={**os.environ, **GIVES_BACK}
    )
    if done.returncode:
        raise RuntimeError(f"{backend}, {row} on {name}: {done.stderr[-2000:]}")
    answer = done.stdout.split()[-1]
    if answer == MISSING:
        raise NotImplementedError(f"{backend} has no {row}")
    return int(answer)


def _measured(backend: str, name: str, row: str) -> int:
    module = side_of(backend)
    call = _call(module.side(problem(name)), row)
    for _ in range(2):
        module.wait(call())
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew from what there is
    rest = _status("VmRSS")
    module.wait(call())
    return _status("VmHWM") - rest


def _call(here: Any, row: str) -> Callable[[], Any]:
    if row == UNIT:
        return here.unit()
    if not row.startswith("one-pass"):
        return here.hypergradient(methods(here.problem.rate)[row])
    tuner, state = here.one_pass()
    if row.endswith("run"):
        return lambda: tuner.run(state, [here.inner] * EVERY, here.outer)

    def steps() -> Any:
        at = state
        for _ in range(EVERY):
            at, _ = tuner.step(at, here.inner, here.outer)
        return at["params"]

    return steps


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def table(backends: Sequence[str], names: Sequence[str], rows: Sequence[str]) -> str:
    """Markdown: a row a method, a column a backend and problem; the last row is the unit in MiB."""
    columns = [(backend, name) for backend in backends for name in names]
    units = {column: peak(*column, UNIT) for column in columns}
    lines = [["peak of one call, in training steps' peaks", *(f"{b} {n}" for b, n in columns)]]
    lines.append(["---"] * len(lines[0]))
    lines += [[row, *(_cell(column, row, units[column]) for column in columns)] for row in rows]
    lines.append([f"{UNIT}, MiB", *(f"{units[column] / 2**20:.1f}" for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(column: tuple[str, str], row: str, unit: int) -> str:
    try:
        return f"{peak(*column, row) / unit:.1f}"
    except NotImplementedError:
        return MISSING


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or with --measure one number in bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    parser.add_argument("--problem", default="P2", help="P2, P3 (P1 is too small to be seen)")
    parser.add_argument("--method", help="rows, separated by ';' (default: all)")
    parser.add_argument("--measure", nargs=3, metavar=("BACKEND", "PROBLEM", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        try:
            print(_measured(*options.measure))  # noqa: T201
        except NotImplementedError:
            print(MISSING)  # noqa: T201
        return 0
    rows = options.method.split(";") if options.method else ROWS
    print(table(options.backend.split(","), options.problem.split(","), rows))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
