"""hypergradient(compile=True): the rule's device part as one program, its end shared with the eager form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import CG, Identity, Implicit, Minimize, Neumann, Unrolled, UnsupportedSpec, tree
from nestgrad_torch._compile.programs import Program, Programs
from nestgrad_torch._compile.signature import codes, functions_of, module_token, modules_within, signature, surroundings
from nestgrad_torch._compile.trace import tagged
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._second_order import second_order
from nestgrad_torch._tree import untouched

_PROGRAMS = Programs()


def require_traceable(inner: Any, method: Any, **given: Any) -> None:
    """Raise UnsupportedSpec for a method whose loop looks at numbers, or an argument that has to be looked at."""
    refused = _not_traceable(inner, method)
    if refused:
        what, instead = refused
        raise UnsupportedSpec(
            f"compile=True: {what}, limit: Implicit with Neumann, Identity, or CG(rtol=0.0) on Minimize, and "
            f"Unrolled(mode='reverse'). Remedy: {instead}, or compile=False."
        )
    for name, value in given.items():
        if value is not None:
            raise UnsupportedSpec(f"compile=True: {name} given, limit: None. Remedy: leave it out, or compile=False.")


def _not_traceable(inner: Any, method: Any) -> tuple[str, str] | None:
    """(what cannot be traced, what to use in its place)."""
    if isinstance(method, Unrolled):
        reverse = method.mode == "reverse"
        return None if reverse else (f"Unrolled(mode={method.mode!r})", "mode='reverse'")
    if not isinstance(method, Implicit):
        return type(method).__name__, "Implicit(solver=Neumann(...))"
    solver: Any = method.solver
    if isinstance(solver, (Neumann, Identity)):
        return None
    if not isinstance(solver, CG):
        return f"{type(solver).__name__}, whose loop reads each step", "CG(rtol=0.0, max_steps=...)"
    if not isinstance(inner, Minimize):
        return f"CG on {type(inner).__name__}, which probes the symmetry", "Neumann"
    return None if solver.truncated else (f"{solver!r}, whose loop reads the residual", "rtol=0.0")


def program_of(
    call: Callable[[], Call], given: dict[str, Any], problem: Any, method: Any, module: nn.Module | None
) -> tuple[Program, list[Tensor]]:
    """The program for these arguments, made where there is none, and its inputs.

    call: makes the checked call, once a program. given: all trees of tensors, params as a plain tree.
    """
    tokens, leaves = signature(given)
    alike: Hashable = (method, tokens, surroundings(leaves[0].device), module_token(module) if module else None)
    key = (problem, alike)
    program = _PROGRAMS.find(key)
    if program is None:
        checked = call()
        title = f"hypergradient by {method!r}, {sum(p.numel() for p in checked.point.leaves)} weights"
        with untouched(checked.point):
            program = Program(title, _Work(checked, given, method), leaves)
        functions = functions_of(problem)
        _PROGRAMS.keep(key, program, modules_within(*functions), alike=(codes(functions), alike))
    return program, leaves


class _Work:
    """Tensors in the order of the signature -> the findings as a tree, the report left in it as a constant."""

    def __init__(self, call: Call, given: dict[str, Any], method: Any) -> None:
        problem = dataclasses.replace(call, problem=tagged(call.problem))
        self._call, self._method = _emptied(problem), method
        self._positions = tree.unflatten(given, range(len(tree.leaves(given))))
        self._constants = [None if isinstance(x, Tensor) else x for x in tree.leaves(given)]
        self._tensors = [isinstance(x, Tensor) for x in tree.leaves(given)]

    def __call__(self, leaves: list[Tensor]) -> Any:
        moving = iter(leaves)
        rows = zip(self._tensors, self._constants, strict=True)
        values = tree.unflatten(self._positions, [next(moving) if there else constant for there, constant in rows])
        point = self._call.point.holding(values.pop("params"), values.pop("buffers"))
        call = dataclasses.replace(self._call, point=point, **values)
        with second_order(point.module):
            found = METHODS(self._method, call)
        return found.tensors(), [found.report]


def _emptied(call: Call) -> Call:
    """The call without its tensors, lest a program keep those that it was made with."""
    empty = {f.name: None for f in dataclasses.fields(call) if f.name not in {"problem", "point", "key"}}
    point = call.point
    meta = tree.map(lambda x: torch.empty_like(x, device="meta"), point.tree)
    return dataclasses.replace(call, point=point.holding(meta, {}), **empty)


def findings_of(program: Program, leaves: list[Tensor]) -> Findings:
    """One run of the program; the generators are as before it."""
    if program.random:
        with torch.random.fork_rng(devices=sorted({x.device.index for x in leaves if x.is_cuda})):
            tensors, (report,) = program(leaves)
    else:
        tensors, (report,) = program(leaves)
    return Findings.of(tensors, report)
