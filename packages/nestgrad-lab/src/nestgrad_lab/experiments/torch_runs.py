"""Runs in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import as_batch, device_named
from nestgrad_lab.experiments.plan import DESCENT_RATE, Plan, Runs, Values, numbers_of
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.experiments.tuners import tuner_for
from nestgrad_lab.hyperparameters import RATE_RANGE
from nestgrad_lab.models import Weights
from nestgrad_lab.networks.torch_networks import accuracy, judged, loss_of


class _Batches:
    """The rows of a part, on the device: all of them, or those of a step with a leading axis of runs."""

    def __init__(self, plan: Plan, part: Part, rows: Rows) -> None:
        self.all = as_batch(part, getattr(torch, plan.dtype), device_named(plan.device))
        self._rows = rows

    def at(self, step: int) -> dict[str, Tensor]:
        rows = self._rows.at(step)
        if rows is None:
            return self.all
        picked = torch.from_numpy(rows).to(self.all["x"].device)
        return {name: values[picked] for name, values in self.all.items()}


class _Common:
    """What all runs share: data, loss, and how weights are judged."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.step = plan, 0
        self.loss = loss_of(plan.network, plan.task)
        self.train = _Batches(plan, plan.train, plan.train_rows)
        self.valid = _Batches(plan, plan.valid, plan.valid_rows)
        self._test = _Batches(plan, plan.test, plan.valid_rows).all

    def put(self, tree: Any) -> Any:
        """The arrays as tensors of the plan's dtype on its device."""
        if isinstance(tree, Mapping):
            return {name: self.put(value) for name, value in tree.items()}
        return torch.tensor(tree, dtype=getattr(torch, self.plan.dtype), device=device_named(self.plan.device))

    def judged(self, params: dict[str, Tensor]) -> dict[str, Array]:
        network, task = self.plan.network, self.plan.task
        found = {part: judged(network, task, params, rows) for part, rows in self._held_rows()}
        return {name: _array(value).astype(np.float64) for name, value in found.items()}

    def final_losses(self, params: dict[str, Tensor]) -> dict[str, Array]:
        network: Any = self.plan.network
        return {**self.judged(params), "accuracy": _array(accuracy(network, params, self._test)).astype(np.float64)}

    def tuner(self, k: int = 0) -> Any:
        """The library's tuner for the plan's algorithm, beginning at the hyperparameters of run k."""
        algorithm = self.plan.algorithm
        outer = functools.partial(torch.optim.Adam, lr=algorithm.outer_lr)
        return tuner_for(ng, algorithm, self.loss, self.optimizer, self.plan.spaces(self.put, k), outer)

    def _held_rows(self) -> list[tuple[str, dict[str, Tensor]]]:
        return [("validation", self.valid.all), ("test", self._test)]

    def optimizer(self, hparams: Any) -> Any:
        """The inner optimizer; what is not tuned stays where it is, its derivative being zero."""
        held = {name: _held(value) for name, value in hparams.items() if name not in self.plan.algorithm.tuned}
        return self.rule({**hparams, **held})

    def rule(self, values: Mapping[str, Any]) -> Any:
        """The inner optimizer with these settings."""
        rule = ng.optim.adamw if self.plan.algorithm.inner == "adam" else ng.optim.sgd
        found, clip = rule(**values), self.plan.clip
        return found if clip is None else ng.optim.clipped(found, clip)


class TunedRuns:
    """Runs of one of the library's tuners, all at once."""

    def __init__(self, plan: Plan) -> None:
        self._common = common = _Common(plan)
        runs = len(plan.starts)
        shared = plan.train_rows.size is None
        self._many = ng.ManyRuns(common.tuner(), runs=runs, shared_batches=shared)
        options = {"key": 0} if plan.algorithm.rule == "drift" else {}
        self._state = self._many.init(common.put(plan.weights), common.put(plan.natural), **options)
        if plan.algorithm.rule == "drift":  # the factors of the starts, on the learning rate alone
            ones = torch.ones_like(self._state["multipliers"]["learning_rate"])
            rate = common.put(plan.factors)
            factors = {name: rate if name == "learning_rate" else ones for name in self._state["multipliers"]}
            self._state = {**self._state, "multipliers": factors}
        self._like = self._state

    def advance(self, steps: int) -> None:
        common, every = self._common, self._common.plan.algorithm.every
        for begun in range(common.step, common.step + steps, every):
            block = [common.train.at(step) for step in range(begun, begun + every)]
            self._state, _ = self._many.run(self._state, block, common.valid.at(begun + every - 1))
        common.step += steps

    def losses(self) -> dict[str, Array]:
        return self._common.judged(self._state["params"])

    def values(self) -> Values:
        return numbers_of(_arrays(self._many.values(self._state)))

    def weights(self) -> Weights:
        return _arrays(self._state["params"])

    def shift(self, by: Mapping[str, float]) -> None:
        moved = {name: value + by.get(name, 0.0) for name, value in self._state["hparams"].items()}
        self._state = {**self._state, "hparams": moved}

    def snapshot(self) -> dict[str, Array]:
        return dict(_flat(self._state))

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._state = _filled(self._like, arrays)
        self._common.step = int(self._state["step"])


class SelfChosenRuns:
    """Runs of one-pass tuning that finds its look-back and interval by itself, one after the other."""

    def __init__(self, plan: Plan) -> None:
        self._common = common = _Common(plan)
        self._tuner = common.tuner()
        self._states = [common.tuner(k).init(common.put(start.weights)) for k, start in enumerate(plan.starts)]

    def advance(self, steps: int) -> None:
        common = self._common
        for step in range(common.step, common.step + steps):
            train, valid = common.train.at(step), common.valid.at(step)
            shared = common.plan.train_rows.size is None
            for k, state in enumerate(self._states):
                own = [batch if shared else {n: v[k] for n, v in batch.items()} for batch in (train, valid)]
                self._states[k], _ = self._tuner.step(state, *own)
        common.step += steps

    def losses(self) -> dict[str, Array]:
        return self._common.judged(_stacked([state["params"] for state in self._states]))

    def values(self) -> Values:
        return numbers_of(_arrays(_stacked([self._tuner.values(state) for state in self._states])))

    def weights(self) -> Weights:
        return _arrays(_stacked([state["params"] for state in self._states]))

    def snapshot(self) -> dict[str, Array]:
        return {f"{k}/{name}": value for k, state in enumerate(self._states) for name, value in _flat(state)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        for k, like in enumerate(self._states):
            own = {name.removeprefix(f"{k}/"): value for name, value in arrays.items() if name.startswith(f"{k}/")}
            self._states[k] = _filled(like, own)
        self._common.step = int(self._states[0]["step"])


class DescentRuns:
    """The rule of Baydin as the code of the paper has it; see Algorithm."""

    def __init__(self, plan: Plan) -> None:
        self._common = common = _Common(plan)
        self._params = common.put(plan.weights)
        natural = common.put(plan.natural)
        self._fixed = {name: value for name, value in natural.items() if name != "learning_rate"}
        self._exponent = natural["learning_rate"].log10()
        self._memory: Any = torch.func.vmap(lambda own, start: common.rule(own).init(start))(natural, self._params)
        self._alone = plan.train_rows.size is None
        axis = None if self._alone else 0
        gradient = torch.func.grad(lambda params, batch: common.loss(params, None, batch))
        self._gradient: Callable[..., Any] = torch.func.vmap(gradient, in_dims=(0, axis))
        self._update = torch.func.vmap(lambda own, *rest: common.rule(own).update(*rest))
        self._like = self.snapshot()

    def advance(self, steps: int) -> None:
        common = self._common
        others = _Batches(common.plan, common.plan.train, common.plan.other_rows) if not self._alone else None
        low, high = (float(np.log10(end)) for end in RATE_RANGE)
        with torch.no_grad():
            grads = self._gradient(self._params, common.train.at(common.step))
            for step in range(common.step, common.step + steps):
                own = {**self._fixed, "learning_rate": 10.0**self._exponent}
                updates, self._memory = self._update(own, grads, self._memory, self._params)
                self._params = {name: value + updates[name] for name, value in self._params.items()}
                batch = common.train.all if others is None else others.at(step)
                after = self._gradient(self._params, batch)
                product = sum((after[n] * grads[n]).flatten(1).sum(1) for n in grads)
                self._exponent = (self._exponent + DESCENT_RATE * product).clamp(low, high)
                if others is None:
                    grads = after
                elif step + 1 < common.step + steps:
                    grads = self._gradient(self._params, common.train.at(step + 1))
        common.step += steps

    def losses(self) -> dict[str, Array]:
        return self._common.judged(self._params)

    def values(self) -> Values:
        return numbers_of(_arrays({**self._fixed, "learning_rate": 10.0**self._exponent}))

    def weights(self) -> Weights:
        return _arrays(self._params)

    def snapshot(self) -> dict[str, Array]:
        return dict(_flat(self._held()))

    def restore(self, arrays: Mapping[str, Array]) -> None:
        held = _filled(self._held(), arrays)
        self._params, self._memory, self._exponent = held["params"], held["memory"], held["exponent"]
        self._common.step = held["step"]

    def _held(self) -> dict[str, Any]:
        return {
            "params": self._params,
            "memory": self._memory,
            "exponent": self._exponent,
            "step": self._common.step,
        }


def begin(plan: Plan) -> Runs:
    """The runs of a plan before their first step."""
    kinds = {"descent": DescentRuns, "self-chosen": SelfChosenRuns}
    return kinds.get(plan.algorithm.rule, TunedRuns)(plan)


def final_losses(plan: Plan, weights: Weights) -> dict[str, Array]:
    """See nestgrad_lab.experiments.plan.final_losses."""
    common = _Common(plan)
    return common.final_losses(common.put(weights))


def _held(value: Any) -> Any:
    """The value, with a derivative of zero: connected, so that a frozen setting is no error, and never moved."""
    if isinstance(value, Mapping):
        return {name: _held(part) for name, part in value.items()}
    return value.detach() + 0.0 * value if isinstance(value, Tensor) else value


def _array(value: Tensor) -> Array:
    return value.detach().cpu().numpy()


def _arrays(tree: Any) -> Any:
    return {k: _arrays(v) for k, v in tree.items()} if isinstance(tree, Mapping) else _array(tree)


def _stacked(trees: list[Any]) -> Any:
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _stacked([tree[name] for tree in trees]) for name in first}
    return torch.stack([tree.detach() for tree in trees])


def _flat(state: Any, path: str = "") -> list[tuple[str, Array]]:
    """(path, array) of every leaf; a count is a whole number without axes."""
    if isinstance(state, Mapping):
        return [leaf for name, part in state.items() for leaf in _flat(part, f"{path}/{name}" if path else name)]
    if isinstance(state, (list, tuple)):
        return [leaf for k, part in enumerate(state) for leaf in _flat(part, f"{path}/{k}")]
    if state is None:
        return []
    return [(path, _array(state) if isinstance(state, Tensor) else np.array(state))]


def _filled(like: Any, arrays: Mapping[str, Array], path: str = "") -> Any:
    """A tree shaped as `like` from the arrays of its paths."""
    if isinstance(like, Mapping):
        return {name: _filled(part, arrays, f"{path}/{name}" if path else name) for name, part in like.items()}
    if isinstance(like, (list, tuple)):
        parts = [_filled(part, arrays, f"{path}/{k}") for k, part in enumerate(like)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    if like is None:
        return None
    found = arrays[path]
    if isinstance(like, Tensor):
        return torch.from_numpy(found.copy()).to(device=like.device, dtype=like.dtype).reshape(like.shape)
    return type(like)(found.item())
