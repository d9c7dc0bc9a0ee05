"""The peak of one warm call over rest, in units of the peak of one plain training step: a Markdown table.

    python -m benchmarks.memory --problem P2 --backend torch,jax

Each column is measured in a process of its own, from the kernel's account of resident memory (Linux), with an allocator
told to give large blocks back at once; so all that a call takes is in it, whoever takes it. It counts in pages:
differences of a tenth mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
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
ACCOUNT = Path("/proc/self/clear_refs")


def peaks(backend: str, name: str, rows: Sequence[str]) -> dict[str, int]:
    """row -> bytes of resident memory that one warm call takes at its peak, all in one fresh process.

    A row that the backend lacks is left out. NotImplementedError where the kernel keeps no such account.
    """
    if not ACCOUNT.exists():
        raise NotImplementedError(f"peaks are read from {ACCOUNT.parent}/status, which this system does not have")
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", backend, name, *rows]
    here = Path(__file__).parents[1]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, cwd=here, env={**os.environ, **GIVES_BACK}
    )
    if done.returncode:
        raise RuntimeError(f"{backend} on {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measured(backend: str, name: str, rows: Sequence[str]) -> dict[str, int]:
    found = {}
    for row in rows:
        try:
            found[row] = _peak(side_of(backend), name, row)
        except NotImplementedError:
            continue
    return found


def _peak(module: Any, name: str, row: str) -> int:
    call = _call(module.side(problem(name)), row)
    for _ in range(2):
        module.wait(call())
    gc.collect()
    ACCOUNT.write_text("5", encoding="ascii")  # the peak starts anew from what there is
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
    columns = {f"{backend} {name}": peaks(backend, name, [UNIT, *rows]) for backend in backends for name in names}
    lines = [["peak of one call, in training steps' peaks", *columns]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [f"{found[row] / found[UNIT]:.1f}" if row in found else "-" for found in columns.values()]
        lines.append([row, *cells])
    lines.append([f"{UNIT}, MiB", *(f"{found[UNIT] / 2**20:.1f}" for found in columns.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or with --measure one number in bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    parser.add_argument("--problem", default="P2", help="P2, P3 (P1 is too small to be seen)")
    parser.add_argument("--method", help="rows, separated by ';' (default: all)")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        backend, name, *rows = options.measure
        print(json.dumps(_measured(backend, name, rows)))  # noqa: T201
        return 0
    rows = options.method.split(";") if options.method else ROWS
    print(table(options.backend.split(","), options.problem.split(","), rows))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
