"""One-pass steps as programs: one of a training step, one of a step with its hyper step, one of a whole block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_torch._compile.programs import Program, Programs
from nestgrad_torch._compile.signature import functions_of, module_token, modules_within, signature, surroundings
from nestgrad_torch._compile.trace import tagged
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._tree import Params, untouched
from nestgrad_torch.tuners._one_pass_work import Work
from nestgrad_torch.tuners._outer_step import AdamStep, SGDStep, started

_CARRIED = ("params", "opt_state", "buffers")


class BlockPrograms:
    """The programs of one tuner, by the shapes of its state and batches.

    outer: the outer optimizer's step where it is part of a program. clipped: leaves within their ranges.
    """

    def __init__(
        self, work: Work, outer: AdamStep | SGDStep | None, clipped: Callable[[Any, list[Tensor]], Any]
    ) -> None:
        self._work, self.outer, self._clipped = work, outer, clipped
        self._programs = Programs()

    def run(
        self, point: Params, state: Any, inner_batches: list[Any], outer_batch: Any, *, tuned: bool
    ) -> tuple[dict[str, Any], Tensor, Findings | None]:
        """(the state after these training steps, their losses, the hypergradient where the last is a hyper step).

        Where the outer optimizer's step is part of the program, the leaves and the outer state have moved.
        """
        given = {name: state[name] for name in (*_CARRIED, "hparams")}
        given |= {"opt_state": _lifted(given["opt_state"]), "inner_batches": inner_batches}
        if tuned:
            given["outer_batch"] = outer_batch
            if self.outer is not None:
                leaves = tree.leaves(state["hparams"])
                given["outer_opt_state"] = started(self.outer, leaves, state["outer_opt_state"])
        tokens, leaves = signature(given)
        module = point.module
        key = (tuned, tokens, surroundings(leaves[0].device), None if module is None else module_token(module))
        program = self._programs.find(key)
        if program is None:
            program = self._made(point, given, leaves, tuned=tuned)
            modules = modules_within(*functions_of(self._work.problem))
            self._programs.keep(key, program, modules, alike=key)
        moved, losses, found = program(leaves)
        moved["opt_state"] = _lowered(state["opt_state"], moved["opt_state"])
        return {**state, **moved}, losses, Findings.of(found[0], found[1][0]) if tuned else None

    def _made(self, point: Params, given: dict[str, Any], leaves: list[Tensor], *, tuned: bool) -> Program:
        count = len(given["inner_batches"])
        title = f"OnePass: {count} training step{'s' * (count > 1)}{' and a hyper step' * tuned}"
        values = tree.leaves(given)
        there = [isinstance(x, Tensor) for x in values]
        constants = [None if isinstance(x, Tensor) else x for x in values]
        template = tree.unflatten(given, there)
        work = dataclasses.replace(self._work, problem=tagged(self._work.problem))
        empty = point.holding(tree.map(lambda x: torch.empty_like(x, device="meta"), point.tree), {})

        def steps(inputs: list[Tensor]) -> Any:
            moving = iter(inputs)
            filled = [next(moving) if hole else constant for hole, constant in zip(there, constants, strict=True)]
            return self._steps(work, empty, tree.unflatten(template, filled), tuned=tuned)

        with untouched(point):
            return Program(title, steps, leaves)

    def _steps(self, work: Work, empty: Params, given: dict[str, Any], *, tuned: bool) -> Any:
        batches, losses, found = given["inner_batches"], list[Tensor](), None
        state = {name: given[name] for name in (*_CARRIED, "hparams")}
        with torch.no_grad():
            settings = work.natural(state["hparams"])
        plain = batches[: len(batches) - tuned]
        if plain:
            point = empty.holding(state["params"], state["buffers"])
            state, losses = work.train(point, state, settings, plain, audit=True)
        moved: dict[str, Any] = {}
        if tuned:
            point = empty.holding(state["params"], state["buffers"])
            state, loss, (findings,) = work.tune(point, state, batches[-1], given["outer_batch"], audit=True)
            losses = [*losses, loss]
            found = findings.tensors(), [findings.report]
            moved = self._moved(state["hparams"], findings.total, given.get("outer_opt_state"))
        return {**{name: state[name] for name in _CARRIED}, **moved}, torch.stack(losses), found

    @torch.no_grad()
    def _moved(self, hparams: Any, total: list[Tensor], kept: Any) -> dict[str, Any]:
        """The leaves and the outer state after the outer step, where it is part of the program."""
        if self.outer is None:
            return {}
        rows = zip(tree.leaves(hparams), total, kept, strict=True)
        steps = [self.outer(leaf.detach(), grad.detach(), entry) for leaf, grad, entry in rows]
        clipped = self._clipped(hparams, [leaf for leaf, _ in steps])
        return {"hparams": clipped, "outer_opt_state": [entry for _, entry in steps]}


def alike(batches: list[Any]) -> bool:
    """Whether all batches have the shapes of the first, so that a block of them is always the same program."""
    first, _ = signature(batches[0])
    return all(batch is batches[0] or signature(batch)[0] == first for batch in batches[1:])


def _is_count(leaf: Any) -> bool:
    return isinstance(leaf, int) and not isinstance(leaf, bool)


def _lifted(opt_state: Any) -> Any:
    """The optimizer state, its integers as tensors: a count that grows would else be another program at every step."""
    if not any(map(_is_count, tree.leaves(opt_state))):
        return opt_state
    return tree.map(lambda x: torch.tensor(x) if _is_count(x) else x, opt_state)


def _lowered(before: Any, after: Any) -> Any:
    """The state with integers where they were."""
    if not any(map(_is_count, tree.leaves(before))):
        return after
    return tree.map(lambda old, new: int(new) if _is_count(old) else new, before, after)
