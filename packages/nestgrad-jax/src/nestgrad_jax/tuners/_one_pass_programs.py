"""One-pass steps as compiled programs that the host calls, whose hypergradients it reads back and judges."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import jax

from nestgrad import Guard, HyperGradient, Implicit, OnePassInfo, OnePassState, Watch, error_for
from nestgrad_jax._report import Packed, unpacked
from nestgrad_jax._tree import is_traced
from nestgrad_jax.tuners._failure import at_zero_gradients, zero_gradients
from nestgrad_jax.tuners._one_pass_work import Work
from nestgrad_jax.tuners._outer_step import as_event
from nestgrad_jax.tuners._recall import Recall
from nestgrad_jax.tuners._training import train


class Programs:
    """The work of one tuner, each kind of step compiled once for its shapes; guard and throw are OnePass's."""

    def __init__(self, work: Work, *, guard: Guard | None, throw: bool) -> None:
        self._work, self._guard, self._throw = work, guard, throw
        self.recall, self._watch = Recall(work.natural), Watch()
        self.train_jitted = jax.jit(functools.partial(train, work.update))
        self.tune_jitted = jax.jit(work.tune_packed)
        self.tune_by_jitted = jax.jit(work.tune_packed, static_argnames=("method", "others"))
        self.block_jitted = jax.jit(work.block, static_argnames=("which", "tunes"))
        self.follow_jitted = jax.jit(work.follow)

    def train(self, state: OnePassState, inner_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step, known on the host to be no more: leaves and outer state stay where they are."""
        values, nothing = self.recall.about(state["hparams"])
        params, opt_state, count, loss = self.train_jitted(
            state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": count}
        return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)

    def tune(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int, method: Implicit | None = None
    ) -> tuple[OnePassState, OnePassInfo]:
        """A hyper step, known on the host to be due; its status is read back, which waits for the device."""
        if method is None:
            after, values, loss, seen, event, _ = self.tune_jitted(state, inner_batch, outer_batch)
        else:
            after, values, loss, seen, event, _ = self.tune_by_jitted(state, inner_batch, outer_batch, method=method)
        if is_traced(seen.numbers):
            found = unpacked(seen).found
        else:
            spec = method or cast("Implicit", self._work.method)
            found = self.judged(
                seen, count, spec, lambda: zero_gradients(self._work.update, state, self._work.natural, inner_batch)
            )
            self.recall.keep_values(after["hparams"], values)
        return after, _tuned(loss, found, values, event)

    def probe(
        self,
        state: OnePassState,
        inner_batch: Any,
        outer_batch: Any,
        count: int,
        method: Implicit,
        others: tuple[Implicit, ...],
    ) -> tuple[OnePassState, OnePassInfo, list[Any]]:
        """A hyper step, and (total, outer loss, contraction) of each of the other methods at the same point."""
        after, values, loss, seen, event, beside = self.tune_by_jitted(
            state, inner_batch, outer_batch, method=method, others=others
        )
        found = self.judged(seen, count, method)
        self.recall.keep_values(after["hparams"], values)
        return after, _tuned(loss, found, values, event), beside

    def judged(self, given: Packed, step: int, method: Implicit, zeros: Callable[[], int] = lambda: 0) -> HyperGradient:
        """The unpacked hypergradient of a step; raises where it is to, and warns of one out of all proportion."""
        found, _, size, loss = unpacked(given)
        self.judge(found, size, loss, step, method, zeros)
        return found

    def judge(
        self,
        found: HyperGradient,
        size: float,
        loss: float,
        step: int,
        method: Any,
        zeros: Callable[[], int] = lambda: 0,
    ) -> None:
        """Raise where it is to, and warn of a hypergradient out of all proportion; a guard does neither.

        zeros(): how many weights had a gradient of exactly zero, asked only of a hypergradient that failed.
        """
        if self._guard is not None:
            return
        if self._throw and not found.status.ok and not (math.isfinite(size) and math.isfinite(loss)):
            error = error_for(found.status, method, found.stats, where=f"training step {step}")
            optimality = float(found.stats.inner_optimality)
            if math.isfinite(loss) and math.isfinite(optimality) and (count := zeros()):
                raise at_zero_gradients(error, count)
            raise error
        self._watch.see(size, step=step)


def _tuned(loss: Any, found: HyperGradient, values: Any, event: Any) -> OnePassInfo:
    """What is told of a hyper step."""
    return OnePassInfo(inner_loss=loss, tuned=True, hypergradient=found, hparams=values, event=as_event(event))
