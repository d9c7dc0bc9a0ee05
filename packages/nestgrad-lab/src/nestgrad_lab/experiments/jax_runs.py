"""Runs in JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array as JaxArray
from jax import lax

import nestgrad_jax as ng
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.jax_engine import OPTIMIZERS, as_batch, device_named, precision_and_device
from nestgrad_lab.experiments.plan import DESCENT_RATE, Plan, Runs, Values, numbers_of, require_same
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.experiments.tuners import tuner_for
from nestgrad_lab.hyperparameters import RATE_RANGE
from nestgrad_lab.models import Weights
from nestgrad_lab.networks.jax_networks import accuracy, judged, loss_of


class _Batches:
    """The rows of a part, on the device: all of them, or those of a step with a leading axis of runs."""

    def __init__(self, plan: Plan, part: Part, rows: Rows) -> None:
        self.all = as_batch(part, plan.dtype)
        self._rows = rows

    def at(self, step: int) -> dict[str, JaxArray]:
        rows = self._rows.at(step)
        return self.all if rows is None else {name: values[rows] for name, values in self.all.items()}


class _Judge:
    """What judges weights: data, loss and precision."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.step = plan, 0
        self.loss = loss_of(plan.network, plan.task)
        self._where = functools.partial(precision_and_device, plan.dtype, device_named(plan.device))
        with self._where():
            self.valid = _Batches(plan, plan.valid, plan.valid_rows)
            self._test = as_batch(plan.test, plan.dtype)

    def judged(self, params: dict[str, JaxArray]) -> dict[str, Array]:
        network, task = self.plan.network, self.plan.task
        with self._where():
            held = {"validation": self.valid.all, "test": self._test}
            return {part: np.asarray(judged(network, task, params, rows), np.float64) for part, rows in held.items()}

    def final_losses(self, weights: Weights) -> dict[str, Array]:
        network: Any = self.plan.network
        with self._where():
            params = self.put(weights)
            right = np.asarray(accuracy(network, params, self._test), np.float64)
        return {**self.judged(params), "accuracy": right}

    def put(self, tree: Any) -> Any:
        """The arrays in the plan's dtype."""
        return jax.tree.map(lambda x: jnp.asarray(x, self.plan.dtype), tree)


class _Runs(_Judge):
    """What all runs share. `state` is a tree of arrays."""

    state: Any

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        with self._where():
            self.train = _Batches(plan, plan.train, plan.train_rows)
            self._begin()

    def _begin(self) -> None:
        """Set the state before the first step."""
        raise NotImplementedError

    def _advance(self, steps: int) -> None:
        raise NotImplementedError

    def _values(self) -> Any:
        raise NotImplementedError

    def _params(self) -> dict[str, JaxArray]:
        return self.state["params"]

    def advance(self, steps: int) -> None:
        with self._where():
            self._advance(steps)
        self.step += steps

    def losses(self) -> dict[str, Array]:
        return self.judged(self._params())

    def values(self) -> Values:
        with self._where():
            return numbers_of(jax.tree.map(np.asarray, self._values()))

    def weights(self) -> Weights:
        return {name: np.array(value) for name, value in self._params().items()}

    def snapshot(self) -> dict[str, Array]:
        return {**self._named(self.state), "runs_step": np.array(self.step)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        rest = {name: value for name, value in arrays.items() if name != "runs_step"}
        with self._where():
            like = self._named(self.state)
            require_same(rest, list(like))
            leaves = [jnp.asarray(rest[name], like[name].dtype) for name in like]
            self.state = jax.tree.unflatten(jax.tree.structure(self.state), leaves)
        self.step = int(arrays["runs_step"])

    def _named(self, state: Any) -> dict[str, Array]:
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}

    def tuner(self, k: int = 0) -> Any:
        """The library's tuner for the plan's algorithm, beginning at the hyperparameters of run k."""
        algorithm = self.plan.algorithm
        outer = optax.adam(algorithm.outer_lr)
        return tuner_for(ng, algorithm, self.loss, self.optimizer, self.plan.spaces(self.put, k), outer)

    def optimizer(self, hparams: Any) -> Any:
        """The inner optimizer; what is not tuned stays where it is, its derivative being zero."""
        held = {name: _held(value) for name, value in hparams.items() if name not in self.plan.algorithm.tuned}
        values = {**hparams, **held}
        if self.plan.algorithm.per_weight:
            return self.rule(values)
        return self.clipped(OPTIMIZERS[self.plan.algorithm.inner](values))

    def rule(self, values: Mapping[str, Any]) -> Any:
        """The library's SGD with these settings, each a number or a tree."""
        return self.clipped(ng.optim.sgd(**values))

    def clipped(self, optimizer: Any) -> Any:
        """The optimizer, given gradients no longer than the plan's largest."""
        return optimizer if self.plan.clip is None else ng.optim.clipped(optimizer, self.plan.clip)


class TunedRuns(_Runs):
    """Runs of one of the library's tuners, all at once."""

    def _begin(self) -> None:
        plan = self.plan
        shared = plan.train_rows.size is None
        self._many = ng.ManyRuns(self.tuner(), runs=len(plan.starts), shared_batches=shared)
        options = {"key": 0} if plan.algorithm.rule == "drift" else {}
        self.state = self._many.init(self.put(plan.weights), self.put(plan.natural), **options)
        if options:  # the factors of the starts, on the learning rate alone
            own = {"learning_rate": self.put(plan.factors)}
            factors = {name: own.get(name, jnp.ones_like(value)) for name, value in self.state["multipliers"].items()}
            self.state = {**self.state, "multipliers": factors}

    def _advance(self, steps: int) -> None:
        every = self.plan.algorithm.every
        for begun in range(self.step, self.step + steps, every):
            block = [self.train.at(step) for step in range(begun, begun + every)]
            self.state, _ = self._many.run(self.state, block, self.valid.at(begun + every - 1))

    def _values(self) -> Any:
        return self._many.values(self.state)

    def shift(self, by: Mapping[str, float]) -> None:
        moved = {name: value + by.get(name, 0.0) for name, value in self.state["hparams"].items()}
        self.state = {**self.state, "hparams": moved}


class SelfChosenRuns(_Runs):
    """Runs of one-pass tuning that finds its look-back and interval by itself, one after the other."""

    def _begin(self) -> None:
        self._tuner = self.tuner()
        self.state = [self.tuner(k).init(self.put(start.weights)) for k, start in enumerate(self.plan.starts)]

    def _advance(self, steps: int) -> None:
        shared = self.plan.train_rows.size is None
        for step in range(self.step, self.step + steps):
            train, valid = self.train.at(step), self.valid.at(step)
            for k, state in enumerate(self.state):
                own = [batch if shared else {n: v[k] for n, v in batch.items()} for batch in (train, valid)]
                self.state[k], _ = self._tuner.step(state, *own)

    def _values(self) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x), *[self._tuner.values(state) for state in self.state])

    def _params(self) -> dict[str, JaxArray]:
        return jax.tree.map(lambda *x: jnp.stack(x), *[state["params"] for state in self.state])

    def restore(self, arrays: Mapping[str, Array]) -> None:
        chosen = self._chosen()
        super().restore(arrays)
        for state, like in zip(self.state, chosen, strict=True):
            state["chosen"] = {name: type(like[name])(value) for name, value in state["chosen"].items()}

    def _chosen(self) -> list[Any]:
        return [state["chosen"] for state in self.state]


class DescentRuns(_Runs):
    """The rule of Baydin as the code of the paper has it; see Algorithm."""

    def _begin(self) -> None:
        plan = self.plan
        natural, params = self.put(plan.natural), self.put(plan.weights)
        self._alone = plan.train_rows.size is None
        self._others = _Batches(plan, plan.train, plan.other_rows)
        self._gradient = jax.vmap(
            jax.grad(lambda params, batch: self.loss(params, None, batch)), in_axes=(0, None if self._alone else 0)
        )
        memory = jax.vmap(lambda own, start: self.rule(own).init(start))(natural, params)
        self._fixed = {name: value for name, value in natural.items() if name != "learning_rate"}
        exponent = jnp.log10(natural["learning_rate"])
        self.state = {"params": params, "memory": memory, "exponent": exponent}
        self._stepped = jax.jit(self._step)
        self._scanned = jax.jit(self._scan, static_argnums=2)

    def _advance(self, steps: int) -> None:
        if self._alone:
            self.state = self._scanned(self.state, self.train.all, steps)
            return
        for step in range(self.step, self.step + steps):
            self.state = self._stepped(self.state, self.train.at(step), self._others.at(step))

    def _scan(self, state: Any, batch: Any, steps: int) -> Any:
        """So many steps on all rows, each gradient taken once."""

        def body(carry: Any, _: None) -> tuple[Any, None]:
            now, seen = carry
            return self._moved(now, seen, batch), None

        grads = self._gradient(state["params"], batch)
        return lax.scan(body, (state, grads), length=steps)[0][0]

    def _step(self, state: Any, batch: Any, other: Any) -> Any:
        return self._moved(state, self._gradient(state["params"], batch), other)[0]

    def _moved(self, state: Any, grads: Any, other: Any) -> tuple[Any, Any]:
        """(the state after a step with these gradients, the gradients after it)."""
        own = {**self._fixed, "learning_rate": 10.0 ** state["exponent"]}
        rule = jax.vmap(lambda own, grads, memory, params: self.rule(own).update(grads, memory, params))
        updates, memory = rule(own, grads, state["memory"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        after = self._gradient(params, other)
        product = sum((after[n] * grads[n]).reshape(len(grads[n]), -1).sum(1) for n in grads)
        low, high = (float(np.log10(end)) for end in RATE_RANGE)
        exponent = jnp.clip(state["exponent"] + DESCENT_RATE * product, low, high)
        return {"params": params, "memory": memory, "exponent": exponent}, after

    def _values(self) -> Any:
        return {**self._fixed, "learning_rate": 10.0 ** self.state["exponent"]}


def begin(plan: Plan) -> Runs:
    """The runs of a plan before their first step."""
    kinds: dict[str, Callable[[Plan], Runs]] = {"descent": DescentRuns, "self-chosen": SelfChosenRuns}
    return kinds.get(plan.algorithm.rule, TunedRuns)(plan)


def final_losses(plan: Plan, weights: Weights) -> dict[str, Array]:
    """See nestgrad_lab.experiments.plan.final_losses."""
    return _Judge(plan).final_losses(weights)


def _held(value: Any) -> Any:
    """The value, with a derivative of zero: connected, so that a frozen setting is no error, and never moved."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) + 0.0 * x, value)
