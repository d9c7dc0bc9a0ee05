"""One trace of some work: a graph of tensor operations, or an error that says what in it is not one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nestgrad import BilevelProblem, InvalidInput, NestgradError, UnsupportedSpec

_REMEDY = "Remedy: torch.where, or any operation on tensors, in its place; or compile=False."


def trace(work: Callable[..., list[Tensor]], leaves: list[Tensor]) -> torch.fx.GraphModule:
    """The operations of work(*leaves), without the marks that only autograd needs.

    Its tensors hold no numbers, so that nothing of these leaves' values can end up in the graph.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415  (takes half a second, and few need it)

    aliases = [leaf.detach() for leaf in leaves]  # a tensor passed twice is two inputs
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    mode = FakeTensorMode(
        allow_non_fake_inputs=True
    )  # without symbols, so that reading a number fails where it is read
    empty = [mode.from_tensor(alias) for alias in aliases]
    versions = [leaf._version for leaf in empty]  # noqa: SLF001
    with _refusals("the work"), mode:
        graph = make_fx(work)(*empty)
    if [leaf._version for leaf in empty] != versions:  # noqa: SLF001
        raise InvalidInput(
            "compile=True: a loss changes one of its arguments in place, limit: 0 such changes. Remedy: .clone() first."
        )
    _strip(graph)
    return graph


def _strip(graph: torch.fx.GraphModule) -> None:
    aten: Any = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in {aten.detach.default, aten.alias.default}:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def draws(graph: torch.fx.GraphModule) -> bool:
    """Whether any operation draws at random."""
    tag = torch.Tag.nondeterministic_seeded
    return any(tag in getattr(node.target, "tags", ()) for node in graph.graph.nodes)


def tagged(problem: BilevelProblem) -> BilevelProblem:
    """The problem, whose functions say by name what cannot be traced in them."""
    inner: Any = problem.inner
    names = {"loss": "inner loss", "map": "map", "residual": "residual"}
    changed = {name: _tag(title, getattr(inner, name)) for name, title in names.items() if hasattr(inner, name)}
    return BilevelProblem(
        inner=dataclasses.replace(inner, **changed), outer_loss=_tag("outer_loss", problem.outer_loss)
    )


def _tag(title: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def tagging(*args: Any) -> Any:
        with _refusals(title):
            return function(*args)

    return tagging


@contextlib.contextmanager
def _refusals(title: str) -> Iterator[None]:
    """What a tensor without numbers cannot do, as an error of ours."""
    from torch._subclasses.fake_tensor import (  # noqa: PLC0415
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
    )

    try:
        yield
    except NestgradError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as failure:
        raise _refused(title, failure) from failure
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as failure:
        words = str(failure)
        if any(
            word in words for word in ("FakeTensor", "tracing tensor", "data pointer", "tensor subclass", "data-depend")
        ):
            raise _refused(title, failure) from failure
        raise


def _refused(title: str, failure: BaseException) -> UnsupportedSpec:
    first = str(failure).strip().splitlines()[0][:120] if str(failure).strip() else type(failure).__name__
    return UnsupportedSpec(
        f"compile=True: {title} reads a tensor's value, or takes a shape from one ({first}), limit: 0 such reads, "
        f"since the program would keep the answer for other values. {_REMEDY}"
    )
