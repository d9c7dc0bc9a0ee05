"""The table of methods in packages/nestgrad/docs/choose.md: what goes with what, from the legality data, and what each
costs and how near it comes, measured here on one problem in PyTorch.

    python tools/method_table.py [--check]

The problem is logistic regression with 200 weights on 1,000 rows, features of very different scales, four groups of
weights with a weight decay each, at its minimum. An error is that of
the whole hypergradient against the exact one there; a cost is process time in units of one plain training step of the
same network in the same process, the median of interleaved rounds. With --check the columns that are data are compared
and nothing is measured or written.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nestgrad as ng

PAGE = Path(__file__).parents[1] / "packages" / "nestgrad" / "docs" / "choose.md"
BEGIN, END = "<!-- method-table:begin -->", "<!-- method-table:end -->"
HEADER = ("method", "inner problems", "needs", "takes", "products", "relative error", "cost")
ROUNDS, LEAST = 9, 3
WEIGHTS, GROUPS, SOLVED, SMALL = 200, 4, 1e-12, 0.1


def _iterative(kind: Any) -> Any:
    return ng.Implicit(solver=kind(rtol=1e-6, max_steps=200))


CHOICES: tuple[tuple[str, Any, str], ...] = (
    ("Dense()", ng.Implicit(solver=ng.Dense()), "minimize"),
    ("CG", _iterative(ng.CG), "minimize"),
    ("MINRES", _iterative(ng.MINRES), "minimize"),
    ("GMRES", _iterative(ng.GMRES), "minimize"),
    ("BiCGSTAB", _iterative(ng.BiCGSTAB), "minimize"),
    ("LSMR", _iterative(ng.LSMR), "minimize"),
    ("NormalCG", _iterative(ng.NormalCG), "minimize"),
    ("Neumann(num_terms=20)", ng.Implicit(solver=ng.Neumann(num_terms=20, step_size=5.0)), "minimize"),
    ("RandomNeumann(num_terms=20)", ng.Implicit(solver=ng.RandomNeumann(num_terms=20, step_size=5.0)), "minimize"),
    ("Nystrom(rank=20)", ng.Implicit(solver=ng.Nystrom(rank=20, damping=0.005)), "minimize"),
    ("Identity()", ng.Implicit(solver=ng.Identity(scale=5.0)), "minimize"),
    ("Unrolled(num_steps=20)", ng.Unrolled(num_steps=20), "update"),
    ("Unrolled(…, lookback=5)", ng.Unrolled(num_steps=20, lookback=5), "update"),
    ("Unrolled(…, checkpoint_every='sqrt')", ng.Unrolled(num_steps=20, checkpoint_every="sqrt"), "update"),
    ("Unrolled(…, mode='forward')", ng.Unrolled(num_steps=20, mode="forward"), "update"),
    ("SAMA()", ng.SAMA(), "update"),
    ("DARTS", ng.DARTS(step_size=5.0), "minimize"),
    ("Penalty", ng.Penalty(multiplier=100.0, num_steps=50, step_size=0.05), "minimize"),
    ("BOME", ng.BOME(num_steps=10, step_size=5.0), "minimize"),
    ("PES(num_pairs=8)", ng.PES(num_steps=20, truncation=20, sigma=0.01, num_pairs=8), "update"),
)
"""What the table has a row for: its name, the spec, and the inner problem it is measured on."""


def data_columns(method: Any) -> tuple[str, str, str]:
    """(inner problems, needs, takes) of a method, as legality says."""
    spec = method.solver if isinstance(method, ng.Implicit) else method
    traits = ng.TRAITS.get(type(spec), ng.Traits())
    inners = [inner for inner in ng.INNERS_OF[type(method)] if _legal(inner, method)]
    needs = []
    if traits.symmetric:
        needs.append("symmetric J" + (", or rates times one" if traits.repaired else ""))
    if traits.key:
        needs.append("`key`")
    takes = [f"`{name}`" for name in ("warm_start", "preconditioner") if getattr(traits, name)]
    return ", ".join(kind.__name__ for kind in inners), ", ".join(needs) or "nothing", ", ".join(takes) or "nothing"


def _legal(inner: type, method: Any) -> bool:
    arguments: dict[type, tuple[Any, ...]] = {ng.WeightUpdate: (print, print), ng.ProximalGradient: (print, print, 0.1)}
    return ng.illegal(inner(*arguments.get(inner, (print,))), method) is None


@dataclass(frozen=True)
class Measured:
    """One method on the problem: products with J or its transpose, relative error, training steps' worth of time."""

    products: int
    error: float
    cost: float

    @property
    def columns(self) -> tuple[str, str, str]:
        """As the table shows them."""
        return (
            str(self.products or "none"),
            f"{self.error:.0e}" if self.error < SMALL else f"{self.error:.2f}",
            f"{self.cost:.0f}",
        )


def measure() -> dict[str, Measured]:
    """Every choice, in one process, rounds interleaved."""
    import torch  # noqa: PLC0415  (--check needs no framework)

    import nestgrad_torch  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind: dict[str, Any] = {"dtype": torch.float64}
    scales = torch.logspace(0.0, -1.5, WEIGHTS, **kind)  # so that the curvatures differ
    x, outer_x = (scales * torch.randn(rows, WEIGHTS, **kind) for rows in (1000, 500))
    truth = torch.randn(WEIGHTS, **kind)
    y, outer_y = ((z @ truth + torch.randn(len(z), **kind) > 0).double() for z in (x, outer_x))
    params = {"w": torch.zeros(WEIGHTS, **kind)}
    hparams = {f"decay_{k}": torch.tensor(-5.0, **kind) for k in range(GROUPS)}

    def outer_loss(p: Any, h: Any, batch: Any) -> Any:
        return torch.nn.functional.binary_cross_entropy_with_logits(batch[0] @ p["w"], batch[1])

    def inner_loss(p: Any, h: Any, batch: Any) -> Any:
        decays = torch.stack([h[name] for name in hparams]).exp()
        return outer_loss(p, h, batch) + 0.5 * (decays * (p["w"] ** 2).view(GROUPS, -1).sum(1)).sum()

    problems = {
        "minimize": ng.BilevelProblem(ng.Minimize(inner_loss), outer_loss),
        "update": ng.BilevelProblem(ng.WeightUpdate(inner_loss, lambda h: nestgrad_torch.optim.sgd(5.0)), outer_loss),
    }
    data = {"inner_batch": (x, y), "outer_batch": (outer_x, outer_y)}
    solver = ng.Dense()
    left = 1.0
    while left > SOLVED:  # Newton steps to the end
        params, left = nestgrad_torch.newton_step(
            problems["minimize"].inner, params, hparams, solver=solver, inner_batch=(x, y)
        )

    def run(method: Any, on: str) -> Any:
        spec = method.solver if isinstance(method, ng.Implicit) else method
        key: dict[str, Any] = {"key": 1} if ng.TRAITS.get(type(spec), ng.Traits()).key else {}
        return nestgrad_torch.hypergradient(problems[on], params, hparams, method=method, throw=False, **data, **key)

    def flat(found: Any) -> Any:
        return torch.stack([found.total[name] for name in hparams])

    exact = flat(run(ng.Implicit(solver=solver), "minimize"))

    def step() -> None:
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        grads = torch.autograd.grad(inner_loss(leaves, hparams, (x, y)), list(leaves.values()))
        for p, g in zip(leaves.values(), grads, strict=True):
            p.detach().sub(g, alpha=5.0)

    unit = [_seconds(step, repeat=20) for _ in range(LEAST)]
    found: dict[str, Measured] = {}
    for name, method, on in CHOICES:
        answer = run(method, on)
        times: list[float] = []
        for _ in range(ROUNDS if isinstance(method, ng.Implicit) else LEAST):
            unit.append(_seconds(step, repeat=20))
            times.append(_seconds(lambda method=method, on=on: run(method, on)))
        error = float((flat(answer) - exact).norm() / exact.norm())
        found[name] = Measured(int(answer.stats.products), error, statistics.median(times) / statistics.median(unit))
    return found


def _seconds(function: Callable[[], Any], repeat: int = 1) -> float:
    began = time.process_time()
    for _ in range(repeat):
        function()
    return (time.process_time() - began) / repeat


def table(measured: dict[str, Measured]) -> str:
    """The Markdown table."""
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [(f"`{name}`", *data_columns(method), *measured[name].columns) for name, method, _ in CHOICES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def written_data(page: str) -> list[list[str]]:
    """The columns of the page's table that are data."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in line.split("|")[1:5]] for line in inside.splitlines() if line.startswith("| `")]


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare what is data; exit 1 when the page differs")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE.name}: the markers {BEGIN} and {END} are missing; put them where the table belongs")
    if options.check:
        right = [[f"`{name}`", *data_columns(method)] for name, method, _ in CHOICES]
        same = written_data(page) == right
        print(f"{PAGE.name}: the table {'agrees' if same else 'does not agree'} with the legality data")
        return 0 if same else 1
    PAGE.write_text(f"{before}{begin}\n{table(measure())}\n{end}{after}", encoding="utf-8")
    print(f"{PAGE.name}: {len(CHOICES)} methods measured and written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
