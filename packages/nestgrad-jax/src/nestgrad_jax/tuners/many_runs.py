"""Many runs at once in JAX: the tuner's own programs, mapped over a leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import (
    InvalidInput,
    OnePassInfo,
    OnePassRun,
    Unrolled,
    UnsupportedSpec,
    check_block,
    check_many_runs,
    initial_values,
    require_leading_axis,
)
from nestgrad_jax._calls import shared
from nestgrad_jax._explain import explained
from nestgrad_jax._tree import as_hparams, as_key, as_params, check_arguments, check_matching, is_traced, named_leaves
from nestgrad_jax.tuners._leaves import natural, require_inside, unconstrained
from nestgrad_jax.tuners._recall import Recall
from nestgrad_jax.tuners._training import LONGEST, trained
from nestgrad_jax.tuners._window import entered
from nestgrad_jax.tuners.full_horizon import FullHorizon, begun


class ManyRuns:
    """`runs` independent runs of a tuner on a leading axis; nestgrad._tuners.many_runs defines it.

    tuner: OnePass with a series or Unrolled, FullHorizon, Fixed or RandomMultiplier; runs: how many; shared_batches:
    whether all runs see the same batches, or batch[r] is run r's. `step` and `run` are driven from Python, and are
    compiled once for their shapes; InvalidInput under a user's own jit where the count of steps has no value.
    """

    def __init__(self, tuner: Any, *, runs: int, shared_batches: bool = True) -> None:
        check_many_runs(tuner, runs)
        method = getattr(tuner, "method", None)
        if isinstance(method, Unrolled) and method.mode == "reversible":
            raise UnsupportedSpec(
                f"ManyRuns: {method}, whose steps the host takes one by one, limit: mode 'reverse' or 'forward'. "
                "Remedy: pass Unrolled(num_steps=...) without a mode."
            )
        self.tuner: Any = tuner
        self.runs, self.shared_batches = runs, shared_batches
        self._recall = Recall(lambda leaves: natural(tuner.spaces, leaves))
        self._step_jitted = jax.jit(self._step, static_argnames="tunes")
        self._block_jitted = jax.jit(self._block, static_argnames=("which", "tunes"))
        self._fresh_jitted = jax.jit(jax.vmap(tuner.pure.fresh))

    def init(self, params: Any, hparams: Any = None, **options: Any) -> Any:
        """The state before the first step; options are those of the tuner's init, a key becoming one for each run.

        params, hparams: arrays with a leading axis of runs, hparams in natural values. Raises InvalidInput for other
        shapes, OutOfSpace for a value outside its space.
        """
        check_arguments(params=params)
        weights = as_params(params)
        self._require_runs("params", weights)
        own: dict[str, Any] = {}
        if "key" in options:
            own["key"] = jax.random.split(as_key(options.pop("key")), self.runs)
        state = jax.vmap(lambda start, each: self.tuner.init(start, **each, **options))(weights, own)
        state["step"] = jnp.zeros((), jnp.int32)
        return state if hparams is None else {**state, "hparams": self._leaves(weights, hparams)}

    def step(self, state: Any, inner_batch: Any, outer_batch: Any = None) -> tuple[Any, OnePassInfo]:
        """The tuner's step in every run; the state passed in is not changed."""
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        self._require_count("step", state)
        with explained("ManyRuns.step", state=state, inner_batch=inner_batch, outer_batch=outer_batch):
            return self._stepped(state, inner_batch, outer_batch)

    def run(self, state: Any, inner_batches: Sequence[Any], outer_batch: Any = None) -> tuple[Any, OnePassRun]:
        """`step` on each of inner_batches in turn, with the one outer batch, as few compiled programs.

        A program ends with a hyper step, or after 16 steps. With Unrolled it is `step` in turn.
        """
        check_block("ManyRuns", inner_batches)
        check_arguments(inner_batches=inner_batches, outer_batch=outer_batch)
        self._require_count("run", state)
        with explained("ManyRuns.run", state=state, inner_batches=inner_batches, outer_batch=outer_batch):
            ran = self._ran_by_steps if "window" in state else self._ran
            return ran(state, list(inner_batches), outer_batch)

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values with a leading axis of runs."""
        return self._recall.about(state["hparams"])[0]

    def _stepped(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """`step`, with JAX's errors as they are."""
        count, every = self._recall.count(state["step"]), cast("int", self.tuner.every)
        tunes = every is not None and (count + 1) % every == 0
        if isinstance(self.tuner, FullHorizon):
            state = begun(self.tuner, state, count, self._fresh_jitted)
        window = {}
        if "window" in state:
            window = entered(state, inner_batch, count, every, self.tuner.method.num_steps)
            state = {**state, "window": window if tunes else {}}
        after, info = self._step_jitted(state, inner_batch, outer_batch if tunes else None, tunes=tunes)
        if "window" in state and not tunes:
            after["window"] = window
        self._recall.keep_count(after["step"], count + 1)
        self._recall.keep_values(after["hparams"], info.hparams)
        return after, replace(info, tuned=tunes)

    def _ran(self, state: Any, batches: list[Any], outer_batch: Any) -> tuple[Any, OnePassRun]:
        """`run`, with JAX's errors as they are."""
        every = self.tuner.every or LONGEST
        count = begun = self._recall.count(state["step"])
        last, losses = begun + len(batches), []
        infos: list[OnePassInfo] = []
        while count < last:
            stop = min(count + every - count % every, last, count + LONGEST)
            tunes = self.tuner.every is not None and stop % every == 0
            part = shared(batches[count - begun : stop - begun])
            state, some, info = self._block_jitted(state, *part, outer_batch if tunes else None, tunes=tunes)
            losses.append(some)
            infos.extend([] if info is None else [info])
            count = stop
        self._recall.keep_count(state["step"], count)
        return state, OnePassRun(
            inner_losses=jnp.concatenate(losses),
            hypergradients=tuple(info.hypergradient for info in infos),
            hparams=self.values(state),
            events=tuple(info.event for info in infos),
        )

    def _ran_by_steps(self, state: Any, batches: list[Any], outer_batch: Any) -> tuple[Any, OnePassRun]:
        """`run` where no block of steps is one program."""
        infos: list[OnePassInfo] = []
        for batch in batches:
            state, info = self._stepped(state, batch, outer_batch)
            infos.append(info)
        losses = jnp.stack([info.inner_loss for info in infos])
        return state, OnePassRun.of(infos, inner_losses=losses, hparams=infos[-1].hparams)

    def _step(self, state: Any, inner_batch: Any, outer_batch: Any, *, tunes: bool) -> tuple[Any, OnePassInfo]:
        """One step of every run, traced."""
        taken: Callable[..., Any] = self.tuner.pure.tune if tunes else self.tuner.pure.only_train
        return self._over_runs(taken, state, inner_batch, outer_batch)

    def _block(
        self, state: Any, distinct: tuple[Any, ...], which: tuple[int, ...], outer_batch: Any, *, tunes: bool
    ) -> tuple[Any, Array, OnePassInfo | None]:
        """(state, losses (steps, runs), what the last step saw) of steps of which at most the last one tunes."""

        def block(state: Any, distinct: tuple[Any, ...], outer_batch: Any) -> tuple[Any, tuple[Array, Any]]:
            batches, values, info = [distinct[i] for i in which], natural(self.tuner.spaces, state["hparams"]), None
            state, losses = trained(self.tuner.pure.update, state, values, batches[:-1] if tunes else batches)
            if tunes:
                state, info = self.tuner.pure.tune(state, batches[-1], outer_batch)
                losses = jnp.concatenate([losses, info.inner_loss[None]])
            return state, (losses, info)

        after, (losses, info) = self._over_runs(block, state, distinct, outer_batch)
        return after, losses.T, info

    def _over_runs(self, function: Callable[..., Any], state: Any, inner: Any, outer: Any) -> tuple[Any, Any]:
        """function(state, inner, outer) -> (state, seen) in every run; the count of steps is one for all."""
        window = state.get("window") or {}
        batches = (inner, outer, window.get("batches"))
        rest = {name: part for name, part in state.items() if name != "step"}
        if window:
            rest["window"] = {name: part for name, part in window.items() if name != "batches"}

        def one(rest: Any, own: Any) -> tuple[Any, Any]:
            inner, outer, seen = batches if own is None else own
            full = {**rest, "step": state["step"]}
            if window:
                full["window"] = {**rest["window"], "batches": seen}
            after, told = function(full, inner, outer)
            steps.append(after["step"])
            return {name: part for name, part in after.items() if name != "step"}, told

        steps: list[Array] = []
        after, told = jax.vmap(one)(rest, None if self.shared_batches else batches)
        return {**after, "step": steps[-1]}, told

    def _leaves(self, weights: Any, hparams: Any) -> Any:
        """The unconstrained leaves of natural values with a leading axis, checked."""
        spaces = self.tuner.spaces
        check_arguments(hparams=hparams)
        values = as_hparams(hparams, jax.tree.leaves(weights)[0].dtype)
        wanted, found = jax.tree.structure(initial_values(spaces)), jax.tree.structure(values)
        if wanted != found:
            raise InvalidInput(
                f"ManyRuns.init: hparams has structure {found}, limit: that of the spaces, {wanted}. "
                "Remedy: pass a tree like the tuner's values."
            )
        check_matching(weights, hparams=values)
        self._require_runs("hparams", values)
        require_inside(spaces, values)
        return unconstrained(spaces, values)

    def _require_runs(self, title: str, values: Any) -> None:
        for name, leaf in named_leaves(title, values):
            require_leading_axis(name, jnp.shape(leaf), self.runs)

    def _require_count(self, caller: str, state: Any) -> None:
        if is_traced(state["step"]):
            raise InvalidInput(
                f"ManyRuns.{caller}: state['step'] is traced, limit: a count with a value, as it decides which steps "
                "tune. Remedy: call it outside of jit; each block of steps is one program already."
            )
