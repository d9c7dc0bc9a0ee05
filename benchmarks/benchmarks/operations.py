"""The four operations that are timed against hand-written code, and what counting says that each must cost."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.problems import Problem

PRODUCTS, STEPS, EVERY, TERMS = 5, 10, 10, 5


@dataclass(frozen=True)
class Operation:
    """letter: its short name. cells: the problems that it is measured on."""

    letter: str
    title: str
    cells: tuple[str, ...] = ("P1", "P2", "P3", "P4")

    def count(self, problem: Problem) -> float:
        """The least work by counting matrix products, in training steps: no cheaper program computes the same."""
        h, o = problem.product, problem.outer_cost
        work = {"a": o + 1 + PRODUCTS * h, "b": o + 1 + STEPS * h, "c": STEPS + o + (STEPS - 1) * h}
        return work.get(self.letter, EVERY + o + (TERMS - 1) * h)


OPERATIONS = {
    operation.letter: operation
    for operation in (
        Operation("a", f"Neumann, {PRODUCTS} products"),
        Operation("b", f"CG, {STEPS} steps"),
        Operation("c", f"reverse unroll, {STEPS} steps"),
        Operation("d", f"{EVERY} momentum steps + one-pass, {TERMS} terms", ("P1", "P2")),
    )
}
