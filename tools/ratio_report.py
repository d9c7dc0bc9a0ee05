"""Print the paired ratios of benchmarks/ as a table: tuning and hypergradients in units of one plain training step.

    python tools/ratio_report.py [--pairs 31] [--only torch]

Each line has the median of the pairs, its quartiles, and the figure that counting operations gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from benchmarks.bench_ratio import hypergradient_ratios, one_pass_ratios
from benchmarks.common import quartiles

ONE_PASS = [("torch", "loop"), ("torch", "module"), ("jax", "loop"), ("jax", "scan")]
SOLVERS = [("neumann", "5 products", 7.0), ("cg", "10 steps", 12.8)]


def contests(backends: tuple[str, ...]) -> Iterator[tuple[str, float, Callable[[int], list[float]]]]:
    """(name, figure by count, measure(pairs)) of each line."""
    for backend, form in ONE_PASS:
        if backend in backends:
            yield f"{backend}: one-pass, {form}", 1.9, lambda n, b=backend, f=form: one_pass_ratios(b, f, n)
    for backend in backends:
        for solver, size, count in SOLVERS:
            yield f"{backend}: {solver}, {size}", count, lambda n, b=backend, s=solver: hypergradient_ratios(b, s, n)


def main() -> None:
    """Measure and print, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=31, help="blocks of each kind a line")
    parser.add_argument("--only", choices=("torch", "jax"), help="one backend")
    options = parser.parse_args()
    print(f"{'8-50-1 network, 614 rows, one thread':36}  median  quartiles     by count")
    for name, count, measure in contests((options.only,) if options.only else ("torch", "jax")):
        low, middle, high = quartiles(measure(options.pairs))
        print(f"{name:36}  {middle:6.2f}  {low:.2f}-{high:.2f}{'':4}  {count:.1f}", flush=True)


if __name__ == "__main__":
    main()
