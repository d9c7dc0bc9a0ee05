"""One-pass tuning in JAX."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    OnePassState,
    Space,
    Unrolled,
    Watch,
    WeightUpdate,
    check_block,
    check_one_pass,
    choosing,
    error_for,
    window_position,
)
from nestgrad_jax._backend import solved
from nestgrad_jax._calls import as_call, settled, shared
from nestgrad_jax._derivatives import floating_leaves, functional_optimizer, linearize, outer_gradients
from nestgrad_jax._explain import explained
from nestgrad_jax._report import Packed, packed, unpacked, whole
from nestgrad_jax._rules._common import METHODS, Call
from nestgrad_jax._rules.implicit import idle, implicit
from nestgrad_jax._shardings import beside
from nestgrad_jax._tree import as_params, check_arguments, check_matching, is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._chosen import after_probe, numbers
from nestgrad_jax.tuners._failure import at_zero_gradients, zero_gradients
from nestgrad_jax.tuners._leaves import is_finite, natural, require_outer_optimizer, start
from nestgrad_jax.tuners._outer_step import finite, no_event, no_events, outer_step
from nestgrad_jax.tuners._recall import Recall
from nestgrad_jax.tuners._training import LONGEST, Pure, train, trained


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with a solver without a key, or Unrolled over the last of
    them; either left out is found by measuring. outer_optimizer: any optax transformation, as optax.adam(0.05).
    warm_start: start each solve from the last one's adjoint. guard: see Guard; its event is an int32 array while
    tracing. throw: raise NonFinite, or the solver's own error, when a hypergradient is NaN or infinite and there is no
    guard; otherwise, and always under a user's own jit, info.hypergradient.status says so. A series that diverges is
    not an error here: its few terms are what the method defines; the status records it.

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
        self.outer_optimizer, self.warm_start, self.guard, self.throw = outer_optimizer, warm_start, guard, throw
        self._every_implicit = cast("int", self.every) if isinstance(method, Implicit) else 0
        self._in_leaves = self._of_leaves()
        self.pure = Pure(update=self._update, only_train=self._only_train, tune=self._tune_whole, fresh=self._fresh)
        self._recall, self._watch = Recall(self._natural), Watch()
        self._train_jitted = jax.jit(functools.partial(train, self._update))
        self._tune_jitted = jax.jit(self._tune_packed)
        self._tune_by_jitted = jax.jit(self._tune_packed, static_argnames=("method", "others"))
        self._block_jitted = jax.jit(self._block, static_argnames=("which", "tunes"))
        self._follow_jitted = jax.jit(self._follow)

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
            state["adjoint"] = self._no_adjoint(weights, state["opt_state"])
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
            return lax.cond(due, self._tune_whole, self._only_train, state, inner_batch, outer_batch)
        count = self._recall.count(state["step"]) + 1
        if every:
            if count % every:
                after, info = self._train_now(state, inner_batch)
            else:
                after, info = self._tune_now(state, inner_batch, outer_batch, count)
        elif isinstance(self.method, Unrolled):
            after, info = self._step_in_window(state, inner_batch, outer_batch, count)
        else:
            after, info = self._step_by_choice(state, inner_batch, outer_batch, count)
        self._recall.keep_count(after["step"], count)
        return after, info

    def _step_in_window(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int
    ) -> tuple[OnePassState, OnePassInfo]:
        """A training step, and a hyper step by the steps of the window that it ends."""
        method, every = cast("Unrolled", self.method), cast("int", self.every)
        window = entered(state, inner_batch, count - 1, every, method.num_steps)
        after, info = self._train_now(state, inner_batch)
        if count % every:
            after["window"] = window
            return after, info
        given = as_call(
            window["params"],
            state["hparams"],
            inner_batches=list(window["batches"]),
            outer_batch=outer_batch,
            opt_state=window["opt_state"],
        )
        found = _report_of(solved(self._in_leaves, method, given).found)
        moving = {name: part for name, part in state.items() if name in ("hparams", "outer_opt_state", "events")}
        moved, values, size, event = self._follow_jitted(found.total, found.outer_loss, moving)
        after = cast("OnePassState", {**after, **moved, "window": {}})
        if not is_traced(size):
            self._judge(found, float(size), float(found.outer_loss), count, method)
            self._recall.keep_values(after["hparams"], values)
        return after, replace(info, tuned=True, hypergradient=found, hparams=values, event=_event(event))

    def _step_by_choice(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int
    ) -> tuple[OnePassState, OnePassInfo]:
        """A step with the numbers in force, which a probe chooses anew."""
        chosen = numbers(state.get("chosen"))
        inside = cast("OnePassState", {name: part for name, part in state.items() if name != "chosen"})
        if chosen["since"] + 1 != chosen["every"]:
            after, info = self._train_now(inside, inner_batch)
            after["chosen"] = choosing.after_step(chosen)
            return after, info
        if chosen["until_probe"]:
            method = choosing.series(chosen["num_terms"], chosen["step_size"])
            after, info = self._tune_now(inside, inner_batch, outer_batch, count, method)
            grew = choosing.grows(float(info.hypergradient.stats.contraction), chosen["num_terms"])
            after["chosen"] = choosing.after_hyper_step(chosen, grew=grew)
            return self._unfollowed(state, after, info) if grew else (after, info)
        below, method, far = choosing.probed(chosen)
        after, values, loss, seen, event, others = self._tune_by_jitted(
            inside, inner_batch, outer_batch, method=method, others=(below, far)
        )
        found = self._judged(seen, count, method)
        grew = choosing.grows(float(found.stats.contraction), chosen["num_terms"])
        after["chosen"] = after_probe(self.spaces, chosen, found.total, others, grew=grew, free=self.every is None)
        self._recall.keep_values(after["hparams"], values)
        info = OnePassInfo(inner_loss=loss, tuned=True, hypergradient=found, hparams=values, event=_event(event))
        return self._unfollowed(state, after, info) if grew else (after, info)

    def _unfollowed(
        self, state: OnePassState, after: OnePassState, info: OnePassInfo
    ) -> tuple[OnePassState, OnePassInfo]:
        """The step without its hyper step, whose terms grow; one that is not finite is left as it is."""
        if not is_finite(info.hypergradient):
            return after, info
        kept = {name: state[name] for name in ("hparams", "outer_opt_state")}
        if "events" in state:
            counts = state["events"]
            kept["events"] = {**counts, "skipped": counts["skipped"] + 1}
        values, _ = self._recall.about(state["hparams"])
        return cast("OnePassState", {**after, **kept}), replace(info, hparams=values, event=Event.SKIPPED)

    def _ran(self, state: OnePassState, batches: list[Any], outer_batch: Any) -> tuple[OnePassState, OnePassRun]:
        """`run`, with JAX's errors as they are."""
        every = cast("int", self.every)
        count = begun = self._recall.count(state["step"])
        last, losses, found, events, values = begun + len(batches), [], [], [], None
        while count < last:
            due = min(count + every - count % every, last)
            stop = min(due, count + LONGEST)
            tunes = stop % every == 0
            state, some, values, seen, event = self._block_jitted(
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
            judged = tuple(self._judged(each, step, cast("Implicit", self.method)) for step, each in found)
            self._recall.keep_count(state["step"], count)
            self._recall.keep_values(state["hparams"], values)
        return state, OnePassRun(
            inner_losses=inner_losses, hypergradients=judged, hparams=values, events=tuple(map(_event, events))
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

    def _block(
        self, state: OnePassState, distinct: tuple[Any, ...], which: tuple[int, ...], outer_batch: Any, *, tunes: bool
    ) -> tuple[OnePassState, Array, Any, Any, Any]:
        """(state, inner losses, natural values, packed hyper step, event) of steps of which at most the last one tunes.

        Step i is on the batch distinct[which[i]].
        """
        values, seen, event = self._natural(state["hparams"]), None, None
        batches = [distinct[i] for i in which]
        state, losses = trained(self._update, state, values, batches[:-1] if tunes else batches)
        if tunes:
            state, values, loss, seen, event, _ = self._tune_packed(state, batches[-1], outer_batch)
            losses = jnp.concatenate([losses, loss[None]])
        return state, losses, values, seen, event

    def _tune_packed(
        self,
        state: OnePassState,
        inner_batch: Any,
        outer_batch: Any,
        *,
        method: Implicit | None = None,
        others: tuple[Implicit, ...] = (),
    ) -> tuple[Any, ...]:
        """(state, natural values, inner loss, packed hypergradient, event, those of the other methods)."""
        after, info, beside = self._tune(state, inner_batch, outer_batch, method, others)
        found: HyperGradient = info.hypergradient
        size = found.stats.indirect_norm if found.direct is None else tree_norm(found.total)
        seen = [(other.total, other.outer_loss, other.stats.contraction) for other in beside]
        return after, info.hparams, info.inner_loss, packed(found, size), info.event, seen

    def _judged(
        self, given: Packed, step: int, method: Implicit, zeros: Callable[[], int] = lambda: 0
    ) -> HyperGradient:
        """The unpacked hypergradient of a step; raises where it is to, and warns of one out of all proportion."""
        found, _, size, loss = unpacked(given)
        self._judge(found, size, loss, step, method, zeros)
        return found

    def _judge(
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
        if self.guard is not None:
            return
        if self.throw and not found.status.ok and not (math.isfinite(size) and math.isfinite(loss)):
            error = error_for(found.status, method, found.stats, where=f"training step {step}")
            optimality = float(found.stats.inner_optimality)
            if math.isfinite(loss) and math.isfinite(optimality) and (count := zeros()):
                raise at_zero_gradients(error, count)
            raise error
        self._watch.see(size, step=step)

    def _train_now(self, state: OnePassState, inner_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step, known on the host to be no more: leaves and outer state stay where they are."""
        values, nothing = self._recall.about(state["hparams"])
        params, opt_state, count, loss = self._train_jitted(
            state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": count}
        return after, OnePassInfo(inner_loss=loss, tuned=False, hypergradient=nothing, hparams=values)

    def _tune_now(
        self, state: OnePassState, inner_batch: Any, outer_batch: Any, count: int, method: Implicit | None = None
    ) -> tuple[OnePassState, OnePassInfo]:
        """A hyper step, known on the host to be due; its status is read back, which waits for the device."""
        if method is None:
            after, values, loss, seen, event, _ = self._tune_jitted(state, inner_batch, outer_batch)
        else:
            after, values, loss, seen, event, _ = self._tune_by_jitted(state, inner_batch, outer_batch, method=method)
        if is_traced(seen.numbers):
            found = unpacked(seen).found
        else:
            spec = method or cast("Implicit", self.method)
            found = self._judged(
                seen, count, spec, lambda: zero_gradients(self._update, state, self._natural, inner_batch)
            )
            self._recall.keep_values(after["hparams"], values)
        return after, OnePassInfo(inner_loss=loss, tuned=True, hypergradient=found, hparams=values, event=_event(event))

    def _only_train(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A training step in the shape of `_tune_whole`, for the branch of a traced condition."""
        values = self._natural(state["hparams"])
        params, opt_state, step, loss = train(
            self._update, state["params"], state["opt_state"], values, state["step"], inner_batch
        )
        after: OnePassState = {**state, "params": params, "opt_state": opt_state, "step": step}
        tuned, nothing = jnp.zeros((), bool), idle(state["hparams"])
        return after, OnePassInfo(inner_loss=loss, tuned=tuned, hypergradient=nothing, hparams=values, event=no_event())

    def _tune_whole(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """A step that tunes, with the tree of results that `_only_train` has; along its window with Unrolled."""
        if isinstance(self.method, Unrolled):
            after, info = self._tune_along(state, inner_batch, outer_batch)
        else:
            after, info, _ = self._tune(state, inner_batch, outer_batch)
        event = no_event() if info.event is None else info.event
        return after, replace(info, hypergradient=whole(info.hypergradient), event=event)

    def _tune(
        self,
        state: OnePassState,
        inner_batch: Any,
        outer_batch: Any,
        method: Implicit | None = None,
        others: tuple[Implicit, ...] = (),
    ) -> tuple[OnePassState, OnePassInfo, list[HyperGradient]]:
        """A training step and a hyper step, the training gradient shared between the two.

        Besides, what the other methods find on the same linearisation. info.event is None without a guard.
        """
        leaves = state["hparams"]
        check_matching(state["params"], hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        problem = self._in_leaves
        point = linearize(problem.inner, state["params"], leaves, inner_batch, state["opt_state"])
        updates, opt_state = cast("tuple[Any, Any]", point.move)
        params: Any = moved_by(state["params"], updates)
        outer = outer_gradients(problem.outer_loss, params, leaves, outer_batch)
        spec = cast("Implicit", method or self.method)
        solve = functools.partial(implicit, point=point, outer=outer, hparams=leaves, params=state["params"])
        found = solve(spec, warm_start=state.get("adjoint"))
        moved, event = outer_step(self.spaces, self.outer_optimizer, self.guard, found.total, found.outer_loss, state)
        step = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        after = cast("OnePassState", {**state, **step, **moved})
        if "adjoint" in state:
            there = finite(found.total, found.outer_loss)
            after["adjoint"] = jax.tree.map(
                lambda new, old: jnp.where(there, new, old), found.adjoint, state["adjoint"]
            )
        # The adjoint stays behind: stacked by a scan it would hold one copy of the weights a step.
        found, values = replace(found, adjoint=None), self._natural(after["hparams"])
        info = OnePassInfo(
            inner_loss=point.loss, tuned=jnp.ones((), bool), hypergradient=found, hparams=values, event=event
        )
        return after, info, [solve(other) for other in others]

    def _tune_along(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """A training step and a hyper step along the state's window, which holds this step's batch too; traced."""
        leaves, window = state["hparams"], state["window"]
        params, opt_state, step, loss = train(
            self._update, state["params"], state["opt_state"], self._natural(leaves), state["step"], inner_batch
        )
        call = settled(
            Call(
                params=window["params"],
                hparams=leaves,
                inner_batches=list(window["batches"]),
                outer_batch=outer_batch,
                opt_state=window["opt_state"],
            )
        )
        found = _report_of(METHODS(self.method, self._in_leaves, call))
        moved, values, _, event = self._follow(found.total, found.outer_loss, state)
        after = {**state, "params": params, "opt_state": opt_state, "step": step, **moved, "window": {}}
        return after, OnePassInfo(
            inner_loss=loss, tuned=jnp.ones((), bool), hypergradient=found, hparams=values, event=event
        )

    def _follow(self, total: Any, outer_loss: Array, state: Any) -> tuple[dict[str, Any], Any, Array, Any]:
        """(the entries of the state that change, natural values, |total|, event) of a hypergradient."""
        moved, event = outer_step(self.spaces, self.outer_optimizer, self.guard, total, outer_loss, state)
        return moved, self._natural(moved["hparams"]), tree_norm(total), event

    def _of_leaves(self) -> BilevelProblem:
        """The problem as a function of the leaves: every hyperparameter goes through its space."""
        update, outer_loss, natural = self._update, self.problem.outer_loss, self._natural
        return BilevelProblem(
            inner=WeightUpdate(
                loss=lambda params, leaves, batch: update.loss(params, natural(leaves), batch),
                optimizer=lambda leaves: update.optimizer(natural(leaves)),
                carry=update.carry,
            ),
            outer_loss=lambda params, leaves, batch: outer_loss(params, natural(leaves), batch),
        )

    def _no_adjoint(self, params: Any, opt_state: Any) -> Any:
        """Zeros shaped like a hypergradient's adjoint."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        if self._update.carry == "weights":
            return zeros
        return {"params": zeros, "opt_state": [jnp.zeros_like(leaf) for leaf in floating_leaves(opt_state)[0]]}

    def _fresh(self, leaves: Any, params: Any) -> Any:
        """The optimizer state of a run that begins."""
        return functional_optimizer(self._update, self._natural(leaves)).init(params)

    def _natural(self, leaves: Any) -> Any:
        return natural(self.spaces, leaves)


def entered(state: Any, inner_batch: Any, step: int, every: int, num_steps: int) -> Any:
    """The window with the batch of the step after `step` training steps; {} before the window's first step."""
    position = window_position(step, every, num_steps)
    if position < 0:
        return {}
    if position == 0:
        return {"params": state["params"], "opt_state": state["opt_state"], "batches": (inner_batch,)}
    return {**state["window"], "batches": (*state["window"]["batches"], inner_batch)}


def _report_of(found: HyperGradient) -> HyperGradient:
    """The hypergradient without what goes with a call, but not with a step."""
    return replace(found, adjoint=None, params=None, opt_state=None)


def _event(event: Any) -> Any:
    """The event as an Event where it has a value."""
    if event is None:
        return Event.NONE
    return event if is_traced(event) else Event(int(event))


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight."""
    number = space.initial
    if not isinstance(number, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(number).__name__}, limit: a number. Remedy: pass Log10(1e-3)."
        )
    return space.starting_at(jax.tree.map(lambda p: jnp.full_like(p, number), as_params(params)))
