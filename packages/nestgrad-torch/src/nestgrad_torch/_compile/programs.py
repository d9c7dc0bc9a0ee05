"""Programs: some work on tensors, as its three forms, of which the one that measured fastest is kept."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from nestgrad import InvalidInput, NestgradWarning, Recompilation, tree
from nestgrad_torch._compile.trace import draws, trace

_LOG = logging.getLogger("nestgrad_torch")

CANDIDATES: tuple[str, ...] = ("eager", "traced", "inductor", "inductor, all in C++")
"""As it stands; the trace replayed operation by operation; the trace compiled by torch._inductor, its kernels called
from Python; and, where that is so short that those calls matter, from C++."""

_KEPT, _RENEWALS, _SHORT = 64, 3, 5e-3

_ROUNDS, _LEAST_ROUNDS, _BUDGET, _READING, _MOST_CALLS = 15, 3, 1.0, 4e-3, 20
"""Measuring ends after so many rounds, or past the budget in seconds once the least number is done; a reading lasts
about _READING seconds, so that one interruption, or a cache that another form has filled, is a small part of it."""

Form = Callable[..., list[Tensor]]
"""Tensors in, tensors out."""


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """What was made of one traced piece of work: its kind, the form in use, and the seconds that each form took."""

    title: str
    chosen: str
    seconds: dict[str, float]
    random: bool
    operations: int


class Program:
    """Tensors in order -> a tree like that of the work, by the fastest of its forms."""

    def __init__(self, title: str, work: Callable[[list[Tensor]], Any], leaves: list[Tensor]) -> None:
        """work: a tree of tensors from tensors; it may also leave what is no tensor in the tree, which is kept."""
        self.title, self._work = title, work
        self._template: Any = None
        graph = trace(self._outgoing, leaves)
        self._constants = [None if isinstance(x, Tensor) else x for x in tree.leaves(self._template)]
        self._holes = [isinstance(x, Tensor) for x in tree.leaves(self._template)]
        self._template = tree.unflatten(self._template, self._holes)
        self.random = draws(graph)
        self.operations = sum(node.op == "call_function" for node in graph.graph.nodes)
        forms: dict[str, Form] = {"eager": self._eager, "traced": graph}
        forms = {name: form for name, form in forms.items() if name in CANDIDATES}
        if "traced" in forms:
            self._require_same(forms["traced"], leaves)
        if "inductor" in CANDIDATES and not self.random:
            forms |= _inductor(title, graph, leaves, "inductor")
        self.seconds = _measured(forms, leaves)
        if "inductor, all in C++" in CANDIDATES and "inductor" in forms and self.seconds["inductor"] < _SHORT:
            forms |= _inductor(title, graph, leaves, "inductor, all in C++", cpp_wrapper=True)
            self.seconds = _measured(forms, leaves)
        self.chosen = min(self.seconds, key=self.seconds.__getitem__)
        self._form = forms[self.chosen]
        _LOG.info(
            "%s: %d operations, %s; %s is kept",
            title,
            self.operations,
            ", ".join(f"{name} {1e3 * taken:.3g} ms" for name, taken in self.seconds.items()),
            self.chosen,
        )
        _ALL.add(self)

    def __call__(self, leaves: list[Tensor]) -> Any:
        """The work's tree; random draws, where there are some, are those of the work itself."""
        with torch.no_grad():
            found = iter(self._form(*leaves))
        filled = [
            next(found) if hole else constant for hole, constant in zip(self._holes, self._constants, strict=True)
        ]
        return tree.unflatten(self._template, filled)

    def _eager(self, *leaves: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            return [x for x in tree.leaves(self._work(list(leaves))) if isinstance(x, Tensor)]

    def _outgoing(self, *leaves: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            self._template = self._work(list(leaves))
        return [x.detach() for x in tree.leaves(self._template) if isinstance(x, Tensor)]

    def _require_same(self, form: Form, leaves: list[Tensor]) -> None:
        """Refuse a trace that does not give the work's own numbers on these leaves."""
        with _own_draws(leaves):
            expected = self._eager(*leaves)
        with _own_draws(leaves), torch.no_grad():
            gap, limit = _gap(expected, form(*leaves)), _limit(expected)
        if gap > limit:
            raise InvalidInput(
                f"compile=True: {self.title} traced differs from itself by {gap:.3g}, limit {limit:.3g}. Remedy: make "
                "the losses depend on their arguments alone, or compile=False."
            )


_ALL: weakref.WeakSet[Program] = weakref.WeakSet()


def compiled_programs() -> list[CompiledProgram]:
    """The programs in use, and for each which form was found the fastest."""
    return [CompiledProgram(p.title, p.chosen, dict(p.seconds), p.random, p.operations) for p in _ALL]


@dataclass(slots=True)
class _Entry:
    """The programs of one key, by the modes of the modules that its functions hold."""

    modules: list[nn.Module]
    by_mode: dict[tuple[bool, ...], Program] = field(default_factory=dict)


class Programs:
    """The programs of one owner, the least recently used ones dropped."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._renewals: Counter[Hashable] = Counter()

    def find(self, key: Hashable) -> Program | None:
        """The program of a key, made for the modes that its modules are in now."""
        try:
            entry = self._entries.get(key)
        except TypeError as failure:
            raise InvalidInput(
                f"compile=True: {failure}, limit: a problem and a method that can be hashed, since programs are told "
                "apart by them. Remedy: give functions, not objects that compare by value, as losses; or compile=False."
            ) from failure
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.by_mode.get(_modes(entry.modules))

    def keep(self, key: Hashable, program: Program, modules: list[nn.Module], *, alike: Hashable) -> None:
        """Keep a program; alike: its key but for functions, to notice those that are made anew again and again."""
        self._entries.setdefault(key, _Entry(modules)).by_mode[_modes(modules)] = program
        self._renewals[alike] += 1
        if self._renewals[alike] == _RENEWALS + 1:
            warnings.warn(
                f"{program.title}: {_RENEWALS + 1} programs for the same shapes, limit {_RENEWALS}. Remedy: define the "
                "losses and the problem once, outside the loop: a new function is a new program.",
                Recompilation,
                stacklevel=4,
            )
        while len(self._entries) > _KEPT:
            self._entries.popitem(last=False)


def _modes(modules: list[nn.Module]) -> tuple[bool, ...]:
    return tuple(layer.training for module in modules for layer in module.modules()) if modules else ()


def _inductor(
    title: str, graph: torch.fx.GraphModule, leaves: list[Tensor], name: str, **options: Any
) -> dict[str, Form]:
    """The compiled form, or none with a warning where the compiler fails."""
    try:
        import torch._inductor as inductor  # noqa: PLC0415  (takes a second, and few need it)

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            form = cast("Form", inductor.compile(graph, [leaf.detach() for leaf in leaves], options=options))
            expected, found = graph(*leaves), list(form(*leaves))
    except Exception as failure:  # noqa: BLE001  (a compiler fails in ways of its own)
        first = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
        warnings.warn(
            f"{title}: 0 of 1 programs compiled ({type(failure).__name__}: {first}), limit: 1. The trace is replayed "
            "instead. Remedy: a C++ compiler on PATH (g++, or CXX), or compile=False.",
            NestgradWarning,
            stacklevel=5,
        )
        return {}
    gap, limit = _gap(expected, found), 100.0 * _limit(expected)
    if gap > limit:
        _LOG.warning("%s: compiled differs from traced by %.3g, limit %.3g, so it is not used", title, gap, limit)
        return {}
    return {name: form}


def _gap(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest norm-wise relative difference; NaN against NaN is none."""
    gaps = [0.0]
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.is_floating_point() and a.numel() and bool(a.isfinite().all()):
            size, gap = float(vector_norm(a)), float(vector_norm(a - b))
            gaps.append(gap / size if size else gap)
    return max(gaps) if all(gap == gap for gap in gaps) else float("inf")  # noqa: PLR0124


def _limit(expected: list[Tensor]) -> float:
    kinds = [x.dtype for x in expected if x.is_floating_point()]
    return max((torch.finfo(kind).eps ** 0.5 for kind in kinds), default=0.0)


def _measured(forms: dict[str, Form], leaves: list[Tensor]) -> dict[str, float]:
    """The least seconds a call of each form on these leaves; readings in turns, in an order that turns as well."""
    if len(forms) == 1:
        return dict.fromkeys(forms, 0.0)
    clock, names = _clock(leaves), list(forms)
    least = dict.fromkeys(forms, float("inf"))
    with _own_draws(leaves), torch.no_grad():
        calls = {name: _calls_a_reading(forms[name], leaves, clock) for name in names}
        began = time.perf_counter()
        for round_ in range(_ROUNDS):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                least[name] = min(least[name], _reading(forms[name], leaves, clock, calls[name]))
            if round_ >= _LEAST_ROUNDS - 1 and time.perf_counter() - began > _BUDGET:
                break
    return least


def _clock(leaves: list[Tensor]) -> Callable[[], float]:
    """Processor time where this thread does all the work, so that other load does not choose; else time passed."""
    on_this_thread = torch.get_num_threads() == 1 and all(leaf.device.type == "cpu" for leaf in leaves)
    return time.thread_time if on_this_thread else time.perf_counter


def _calls_a_reading(form: Form, leaves: list[Tensor], clock: Callable[[], float]) -> int:
    """So many that a reading lasts _READING; the form has been called twice then."""
    form(*leaves)
    taken = _reading(form, leaves, clock, 1)
    return max(1, min(_MOST_CALLS, round(_READING / max(taken, 1e-6))))


def _reading(form: Form, leaves: list[Tensor], clock: Callable[[], float], calls: int) -> float:
    _wait(leaves)
    start = clock()
    for _ in range(calls):
        form(*leaves)
    _wait(leaves)
    return (clock() - start) / calls


def _wait(leaves: list[Tensor]) -> None:
    if leaves[0].is_cuda:
        torch.cuda.synchronize(leaves[0].device)


def _own_draws(leaves: list[Tensor]) -> contextlib.AbstractContextManager[None]:
    """Generators are put back at the end."""
    return torch.random.fork_rng(devices=sorted({x.device.index for x in leaves if x.is_cuda}))
