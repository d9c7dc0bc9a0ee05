"""One-pass tuning in JAX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from nestgrad import (
    BilevelProblem,
    Guard,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    Unrolled,
    check_block,
    check_one_pass,
    choosing,
)
from nestgrad_jax._calls import shared
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._explain import explained
from nestgrad_jax._report import unpacked
from nestgrad_jax._shardings import beside
from nestgrad_jax._tree import as_params, check_arguments, is_traced
from nestgrad_jax.tuners._chosen import step_by_choice
from nestgrad_jax.tuners._leaves import require_outer_optimizer, start
from nestgrad_jax.tuners._one_pass_programs import Programs
from nestgrad_jax.tuners._one_pass_work import Work
from nestgrad_jax.tuners._outer_step import as_event, no_events
from nestgrad_jax.tuners._training import LONGEST, Pure
from nestgrad_jax.tuners._window import along, entered


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with a solver without a key, or Unrolled over the last of
    them; either left out is found by measuring. outer_optimizer: any optax transformation, as optax.adam(0.05).
    warm_start: start each solve from the last one's adjoint. guard: see Guard, Guard() where method is left out; its
    event is an int32 array while tracing. throw: raise NonFinite, or the solver's own error, when a hypergradient is
    NaN or infinite and there is no guard; otherwise, and always under a user's own jit, info.hypergradient.status says
    so. A series that diverges is not an error here: its few terms are what the method defines; the status records it.

    `step` is pure and jitted. With Implicit it may be the body of a lax.scan, and may be mapped over runs by vmap: with
    in_axes and out_axes None for state["step"], training steps between hyper steps then stay as cheap as they are.
    With Unrolled, or numbers found by measuring, it is driven from Python; InvalidInput where its count is traced.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int | None = None,
        method: Implicit | Unrolled | None = None,
        outer_optimizer: Any,
        warm_start: bool = False,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self._update = check_one_pass(problem, hparams, every, method, warm_start=warm_start, guard=guard)
        require_outer_optimizer("OnePass", outer_optimizer)
        self.problem, self.spaces, self.method = problem, hparams, method
        self.every = choosing.interval_for(method) if every is None and method is not None else every
        self.guard = choosing.guard_for(method, guard)
        self.outer_optimizer, self.warm_start, self.throw = outer_optimizer, warm_start, throw
        self._every_implicit = cast("int", self.every) if isinstance(method, Implicit) else 0
        self._work = Work(
            problem,
            update=self._update,
            spaces=hparams,
            method=method,
            outer_optimizer=outer_optimizer,
            guard=self.guard,
        )
        work = self._work
        self.pure = Pure(update=self._update, only_train=work.only_train, tune=work.tune_whole, fresh=work.fresh)
        self._programs = Programs(work, guard=self.guard, throw=throw)
        self._recall = self._programs.recall

    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a pytree of floating arrays, copied."""
        weights, values, leaves = start(self.spaces, params)
        state: OnePassState = {
            "params": weights,
            "opt_state": functional_optimizer(self._update, values).init(weights),
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "step": jnp.zeros((), jnp.int32),
            "buffers": {},
        }
        if self.warm_start:
            state["adjoint"] = self._work.no_adjoint(weights, state["opt_state"])
        if self.guard is not None:
            state["events"] = no_events()
        if isinstance(self.method, Unrolled):
            state["window"] = {}
        state = beside(weights, state)
        if self.method is None:
            state["chosen"] = choosing.first_choice(self.every)
        return state

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        with explained("OnePass.step", state=state, inner_batch=inner_batch, outer_batch=outer_batch):
            return self._stepped(state, inner_batch, outer_batch)

    def run(
        self, state: OnePassState, inner_batches: Sequence[Any], outer_batch: Any
    ) -> tuple[OnePassState, OnePassRun]:
        """`step` for each batch in turn with this one outer batch, as few compiled programs; the state is not changed.

        A program ends with a hyper step, or after 16 steps, and is compiled once for its length: blocks of `every`
        steps that begin where one ended need a single one. Statuses are read once, at the end of the block; then the
        first hyper step that failed raises as in `step`. With Unrolled, or numbers found by measuring, it is `step` in
        turn. Raises InvalidInput for no batches, and under a user's own jit where the count of steps has no value.
        """
        check_block("OnePass", inner_batches)
        check_arguments(inner_batches=inner_batches, outer_batch=outer_batch)
        if is_traced(state["step"]):
            raise InvalidInput(
                "OnePass.run: state['step'] is traced, limit: a count with a value, as it decides which steps tune. "
                "Remedy: jax.lax.scan over step, which is made for it."
            )
        with explained("OnePass.run", state=state, inner_batches=inner_batches, outer_batch=outer_batch):
            ran = self._ran if isinstance(self.method, Implicit) else self._ran_by_steps
            return ran(state, list(inner_batches), outer_batch)

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _stepped(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """`step`, with JAX's errors as they are."""
        every = self._every_implicit
        if is_traced(state["step"]):
            if not every:
                raise InvalidInput(
                    f"{type(self).__name__}.step: state['step'] is traced with method {self.method}, limit: a count "
                    "with a value. Remedy: call step outside of jit, or pass every=10, method=Implicit(...)."
                )
            due = (state["step"] + 1) % every == 0
            return lax.cond(due, self.pure.tune, self.pure.only_train, state, inner_batch, outer_batch)
        count = self._recall.count(state["step"]) + 1
        if every:
            if count % every:
                after, info = self._programs.train(state, inner_batch)
            else:
                after, info = self._programs.tune(state, inner_batch, outer_batch, count)
        elif isinstance(self.method, Unrolled):
            after, info = self._step_in_window(self.method, state, inner_batch, outer_batch, count)
        else:
            free = self.every is None
            after, info = step_by_choice(
                self._programs, self.spaces, state, inner_batch, outer_batch, count=count, free=free
            )
        self._recall.keep_count(after["step"], count)
        return after, info

    def _step_in_window(
        self, method: Unrolled, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int
    ) -> tuple[OnePassState, OnePassInfo]:
        """A training step, and a hyper step by the steps of the window that it ends."""
        every = cast("int", self.every)
        window = entered(state, inner_batch, count - 1, every, method.num_steps)
        after, info = self._programs.train(state, inner_batch)
        if count % every:
            after["window"] = window
            return after, info
        found = along(method, self._work.in_leaves, window, state["hparams"], outer_batch)
        moving = {name: part for name, part in state.items() if name in ("hparams", "outer_opt_state", "events")}
        moved, values, size, event = self._programs.follow_jitted(found.total, found.outer_loss, moving)
        after = cast("OnePassState", {**after, **moved, "window": {}})
        if not is_traced(size):
            self._programs.judge(found, float(size), float(found.outer_loss), count, method)
            self._recall.keep_values(after["hparams"], values)
        return after, replace(info, tuned=True, hypergradient=found, hparams=values, event=as_event(event))

    def _ran(self, state: OnePassState, batches: list[Any], outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`run`, with JAX's errors as they are."""
        every = cast("int", self.every)
        count = begun = self._recall.count(state["step"])
        last, losses, found, events, values = begun + len(batches), [], [], [], None
        while count < last:
            due = min(count + every - count % every, last)
            stop = min(due, count + LONGEST)
            tunes = stop % every == 0
            state, some, values, seen, event = self._programs.block_jitted(
                state, *shared(batches[count - begun : stop - begun]), outer_batch if tunes else None, tunes=tunes
            )
            losses.append(some)
            if seen is not None:
                found.append((stop, seen))
                events.append(event)
            count = stop
        inner_losses = losses[0] if len(losses) == 1 else jnp.concatenate(losses)
        if is_traced((inner_losses, values)):
            judged = tuple(unpacked(each).found for _, each in found)
        else:
            judged = tuple(self._programs.judged(each, step, cast("Implicit", self.method)) for step, each in found)
            self._recall.keep_count(state["step"], count)
            self._recall.keep_values(state["hparams"], values)
        return state, OnePassRun(
            inner_losses=inner_losses, hypergradients=judged, hparams=values, events=tuple(map(as_event, events))
        )

    def _ran_by_steps(
        self, state: OnePassState, batches: list[Any], outer_batch: Any
    ) -> tuple[OnePassState, OnePassRun]:
        """`run` where no block of steps is one program."""
        infos: list[OnePassInfo] = []
        for batch in batches:
            state, info = self._stepped(state, batch, outer_batch)
            infos.append(info)
        losses = jnp.stack([info.inner_loss for info in infos])
        return state, OnePassRun.of(infos, inner_losses=losses, hparams=infos[-1].hparams)


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight."""
    number = space.initial
    if not isinstance(number, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(number).__name__}, limit: a number. Remedy: pass Log10(1e-3)."
        )
    return space.starting_at(jax.tree.map(lambda p: jnp.full_like(p, number), as_params(params)))
