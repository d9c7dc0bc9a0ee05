"""What tuners that train a response share: the state they start from, and a step in Python or inside a trace."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nestgrad import (
    BilevelProblem,
    Guard,
    HyperGradient,
    HyperTrainingState,
    InvalidInput,
    OnePassInfo,
    Response,
    Watch,
    error_for,
)
from nestgrad_jax._explain import explained
from nestgrad_jax._report import packed, unpacked
from nestgrad_jax._responses import init_response
from nestgrad_jax._rules.implicit import idle
from nestgrad_jax._shardings import beside
from nestgrad_jax._tree import check_arguments, is_traced, tree_norm
from nestgrad_jax.tuners._leaves import natural, require_outer_optimizer, start
from nestgrad_jax.tuners._outer_step import as_event, no_event, no_events
from nestgrad_jax.tuners._recall import Recall

_SEEDS = 1 << 32


class Phase(NamedTuple):
    """What a step moves."""

    fits: bool
    tunes: bool


class Work(NamedTuple):
    """What a step did: the state's entries that change, and what it saw.

    found is None where hparams stay, event None there and without a guard.
    """

    moved: dict[str, Any]
    values: Any
    loss: Array
    found: HyperGradient | None = None
    event: Array | None = None


class ByResponse(ABC):
    """A tuner whose state holds a response's weights; see its own class for what a step computes."""

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        response: Response,
        optimizer: Any,
        outer_optimizer: Any,
        guard: Guard | None,
        throw: bool,
    ) -> None:
        require_outer_optimizer(self._name, optimizer, "optimizer")
        require_outer_optimizer(self._name, outer_optimizer)
        self.problem, self.spaces, self.response = problem, hparams, response
        self.optimizer, self.outer_optimizer = optimizer, outer_optimizer
        self.guard, self.throw = guard, throw
        self._natural = functools.partial(natural, hparams)
        self._recall, self._watch = Recall(self._natural), Watch()
        self._jitted = jax.jit(self._packed, static_argnames="phase")

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    @property
    def _name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def _phase(self, count: int) -> Phase:
        """What the step after so many moves."""

    @abstractmethod
    def _choice(self, step: Array) -> tuple[Array | bool, Phase, Phase]:
        """`_phase` of a count that is traced: (which, the phase where true, the phase where false)."""

    @abstractmethod
    def _work(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any, phase: Phase) -> Work:
        """A step, as arithmetic that traces."""

    def _start(self, params: Any, key: int) -> tuple[HyperTrainingState, Any]:
        """(the state before the first step without the outer optimizer's, the params given, as arrays)."""
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or not 0 <= key < _SEEDS:
            raise InvalidInput(f"{self._name}.init: key {key!r}, limit: an int from 0 to 2**32 - 1. Remedy: key=0.")
        params, _, leaves = start(self.spaces, params)
        weights = init_response(self.response, params, leaves, key=int(key))
        state: HyperTrainingState = {
            "params": weights,
            "opt_state": self.optimizer.init(weights),
            "hparams": leaves,
            "outer_opt_state": None,
            "step": jnp.zeros((), jnp.int32),
            "seed": jnp.asarray(np.uint32(key)),
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return state, params

    def _step(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any) -> tuple[Any, OnePassInfo]:
        """A step; noise is as `_work` takes it."""
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        with explained(f"{self._name}.step", state=state, inner_batch=inner_batch, outer_batch=outer_batch):
            if is_traced(state["step"]):
                return self._traced(state, inner_batch, outer_batch, noise)
            return self._stepped(state, inner_batch, outer_batch, noise)

    def _stepped(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any) -> tuple[Any, OnePassInfo]:
        """With a count that has a value: the program of its phase."""
        count = self._recall.count(state["step"])
        moved, values, loss, seen, event = self._jitted(
            state, inner_batch, outer_batch, noise, phase=self._phase(count)
        )
        after = {**state, **moved}
        self._recall.keep_count(after["step"], count + 1)
        if seen is None:
            values, nothing = self._recall.about(state["hparams"])
            return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)
        found, _, size, outer_loss = unpacked(seen)
        if not is_traced(seen.numbers):
            self._judge(found, size, outer_loss, count + 1)
            self._recall.keep_values(after["hparams"], values)
        return after, OnePassInfo(
            inner_loss=loss, tuned=True, hypergradient=found, hparams=values, event=as_event(event)
        )

    def _judge(self, found: HyperGradient, size: float, outer_loss: float, step: int) -> None:
        """Raise where it is to, and warn of a hypergradient out of all proportion; a guard does neither."""
        if self.guard is not None:
            return
        if self.throw and not found.status.ok and not (math.isfinite(size) and math.isfinite(outer_loss)):
            raise error_for(found.status, self, found.stats, where=f"training step {step}")
        self._watch.see(size, step=step)

    def _traced(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any) -> tuple[Any, OnePassInfo]:
        """Inside a trace."""
        which, first, second = self._choice(state["step"])
        branches = [functools.partial(self._whole, phase=phase) for phase in (first, second)]
        if isinstance(which, bool):
            return branches[0 if which else 1](state, inner_batch, outer_batch, noise)
        return cast("Any", lax.cond(which, *branches, state, inner_batch, outer_batch, noise))

    def _whole(
        self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any, *, phase: Phase
    ) -> tuple[Any, OnePassInfo]:
        """A step, with a tree of results that is the same in every phase."""
        moved, values, loss, found, event = self._work(state, inner_batch, outer_batch, noise, phase)
        return {**state, **moved}, OnePassInfo(
            inner_loss=loss,
            tuned=jnp.asarray(phase.tunes),
            hypergradient=idle(state["hparams"]) if found is None else found,
            hparams=values,
            event=no_event() if event is None else event,
        )

    def _packed(self, state: Any, inner_batch: Any, outer_batch: Any, noise: Any, *, phase: Phase) -> tuple[Any, ...]:
        """(the state's entries that change, natural values, inner loss, packed hypergradient, event)."""
        *others, found, event = self._work(state, inner_batch, outer_batch, noise, phase)
        return *others, None if found is None else packed(found, tree_norm(found.total)), event

    def _begun(self, state: Any, params: Any, moved: Any) -> Any:
        """The state with the outer optimizer's own, which begins from what it moves."""
        return beside(params, {**state, "outer_opt_state": self.outer_optimizer.init(moved)})
