"""What a tuner remembers of the last step's arrays, so that a loop in Python need not wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import Array
from jax.core import Tracer

from nestgrad import HyperGradient, Status
from nestgrad_jax._rules.implicit import idle


class Recall:
    """The step count, the natural values and the idle report that belong to the arrays last seen.

    Arrays are recognised by identity, which says enough for JAX arrays, since nothing changes them; a state of any
    other origin is read afresh. So forgetting everything would change no result.
    """

    def __init__(self, natural: Callable[[Any], Any]) -> None:
        self._natural = jax.jit(natural)
        self._count: tuple[Any, int] = (None, 0)
        self._leaves: tuple[list[Any], Any] = ([], None)
        self._idle: tuple[Any, HyperGradient | None] = (None, None)

    def count(self, step: Any) -> int:
        """The step count as a number."""
        known, count = self._count
        return count if known is step else int(step)

    def keep_count(self, step: Any, count: int) -> None:
        """Remember the count that this array holds."""
        if _lasting([step]):
            self._count = (step, count)

    def about(self, hparams: Any) -> tuple[Any, HyperGradient]:
        """The natural values of these leaves, and the report of a step without a hypergradient."""
        leaves = jax.tree.leaves(hparams)
        known, values = self._leaves
        if not leaves or len(known) != len(leaves) or any(a is not b for a, b in zip(known, leaves, strict=True)):
            values = self._natural(hparams)
            self.keep_values(hparams, values)
        return values, self._nothing(hparams, leaves)

    def keep_values(self, hparams: Any, values: Any) -> None:
        """Remember the natural values of these leaves."""
        leaves = jax.tree.leaves(hparams)
        if _lasting(leaves):
            self._leaves = (leaves, values)

    def _nothing(self, hparams: Any, leaves: list[Any]) -> HyperGradient:
        """The idle report as arrays with values, also inside a trace; made once for these shapes."""
        kinds = [(leaf.shape, leaf.dtype) for leaf in leaves]
        known, nothing = self._idle
        if nothing is None or known != kinds:
            with jax.ensure_compile_time_eval():
                nothing = replace(idle(hparams), status=Status.IDLE)
            self._idle = (kinds, nothing)
        return nothing


def _lasting(leaves: list[Any]) -> bool:
    """Whether all are JAX arrays with values, which nothing can change or leave behind in a trace."""
    return all(isinstance(leaf, Array) and not isinstance(leaf, Tracer) for leaf in leaves)
