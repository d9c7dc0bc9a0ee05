"""What one call of our jax backend does, counted: no clock, and the same on every machine with this version of jax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import monitoring
from jax.core import Tracer
from jax.extend import core

COMPILED = "/jax/core/compile/backend_compile_duration"
READS = ("__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "tolist")
PRODUCTS = {"dot_general", "conv_general_dilated"}


def counted(call: Callable[[], Any], losses: dict[str, int]) -> dict[str, int]:
    """The counts of one call: losses traced, programs compiled, reads by the host.

    losses: how often the inner and the outer loss were called, which the problem keeps. The call has been warmed.
    """
    before = dict(losses)
    reads = _Reads()
    with reads.counted(), _compiled() as compiled:
        jax.block_until_ready(call())
    return {
        "inner losses": losses["inner"] - before["inner"],
        "outer losses": losses["outer"] - before["outer"],
        "compilations": len(compiled),
        "host reads": reads.count,
    }


def products(function: Callable[..., Any], *args: Any) -> int:
    """Matrix products and convolutions in the function's jaxpr, those of a scan as often as it runs them."""
    return _products(jax.make_jaxpr(function)(*args).jaxpr)


def _products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name in PRODUCTS
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [_products(each) for value in equation.params.values() for each in _jaxprs(value)]
        branches = equation.primitive.name == "cond"
        total += times * (max(inner, default=0) if branches else sum(inner))
    return total


def _jaxprs(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _jaxprs(each)


@contextmanager
def _compiled() -> Iterator[list[str]]:
    """The compilations of the block, one entry each."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED:
            found.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)


class _Reads:
    """Values brought to the host: by Python's conversions, by NumPy's, by jax.device_get."""

    def __init__(self) -> None:
        self.count, self._within = 0, False

    @contextmanager
    def counted(self) -> Iterator[None]:
        kind: Any = type(jnp.zeros(()))
        places = [*((kind, name) for name in READS), (np, "asarray"), (np, "array"), (jax, "device_get")]
        originals = [(place, name, getattr(place, name)) for place, name in places]
        for place, name, original in originals:
            setattr(place, name, self._counting(original))
        try:
            yield
        finally:
            for place, name, original in originals:
                setattr(place, name, original)

    def _counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def counting(value: Any, *args: Any, **kwargs: Any) -> Any:
            outermost = not self._within and any(_is_concrete(leaf) for leaf in jax.tree.leaves(value))
            if not outermost:
                return original(value, *args, **kwargs)
            self.count += 1
            self._within = True  # one read may go through several of these
            try:
                return original(value, *args, **kwargs)
            finally:
                self._within = False

        return counting


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
