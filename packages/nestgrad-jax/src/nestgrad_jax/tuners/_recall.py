"""What a tuner remembers of the last step's arrays, so that a loop in Python need not wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import Array

from nestgrad import HyperGradient, Status
from nestgrad_jax._rules.implicit import idle


class Recall:
    """Step count and natural values of the arrays last seen.

    Recognised by the identity of arrays that JAX never changes, so a state of any other origin is read afresh, and
    forgetting everything changes no result.
    """

    def __init__(self, natural: Callable[[Any], Any]) -> None:
        self._natural = jax.jit(natural)
        self._count: tuple[Any, int] = (None, 0)
        self._values: tuple[list[Any], Any] = ([], None)
        self._idle: tuple[list[Any], Any] = ([], None)

    def count(self, step: Any) -> int:
        """The step count as a number."""
        known, count = self._count
        return count if known is step else int(step)

    def keep_count(self, step: Any, count: int) -> None:
        """Remember the count that this array holds."""
        if _lasting([step]):
            self._count = (step, count)

    def values(self, hparams: Any) -> Any:
        """The natural values of these leaves."""
        leaves = jax.tree.leaves(hparams)
        known, values = self._values
        if not _same(known, leaves):
            values = self._natural(hparams)
            self.keep_values(hparams, values)
        return values

    def keep_values(self, hparams: Any, values: Any) -> None:
        """Remember the natural values of these leaves."""
        leaves = jax.tree.leaves(hparams)
        if _lasting(leaves):
            self._values = (leaves, values)

    def idle(self, hparams: Any) -> HyperGradient:
        """The report of a step without a hypergradient; one for all leaves of the same shapes."""
        kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(hparams)]
        known, nothing = self._idle
        if known != kinds:
            with jax.ensure_compile_time_eval():
                nothing = replace(idle(hparams), status=Status.IDLE)
            self._idle = (kinds, nothing)
        return nothing


def _same(known: list[Any], leaves: list[Any]) -> bool:
    return len(known) == len(leaves) and all(a is b for a, b in zip(known, leaves, strict=True))


def _lasting(leaves: list[Any]) -> bool:
    """Whether identity says enough: JAX arrays with values, which nothing can change or leave behind in a trace."""
    return all(isinstance(leaf, Array) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves)
