"""Training and tuning in JAX: a segment is one compiled scan."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array as JaxArray
from jax import lax

import nestgrad_jax as ng
from nestgrad import Status
from nestgrad_lab.batches import Segment
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.engines.engine import Plan, Report
from nestgrad_lab.errors import OptionError
from nestgrad_lab.hyperparameters import spaces
from nestgrad_lab.models import Weights


class JaxEngine:
    """The two runs; see Engine."""

    def __init__(self, plan: Plan, weights: Weights, train: Part, valid: Part) -> None:
        self._plan = plan
        self._device = device_named(plan.device)
        with self._settings():
            self._train, self._valid = as_batch(train, plan.dtype), as_batch(valid, plan.dtype)
            start = {name: jnp.asarray(value, plan.dtype) for name, value in weights.items()}
            loss = functools.partial(model_loss, plan.task)
            self._plain_optimizer = OPTIMIZERS[plan.inner](plan.start)
            self._plain = (start, self._plain_optimizer.init(start))
            self._plain_losses: Any = jnp.zeros(0)
            self._train_scan = jax.jit(functools.partial(_plain_scan, loss, self._plain_optimizer))
            if plan.tuned:
                self.tuner = tuner_for(loss, plan)
                self._state = self.tuner.init(start)
                self._tune_scan = jax.jit(functools.partial(_tuned_scan, self.tuner))
            self._report: Any = None

    def warm_up(self, segments: Sequence[Segment]) -> None:
        with self._settings():
            for segment in segments:
                jax.block_until_ready(self._train_scan(self._plain, self._train, self._rows(segment)))
                if self._plan.tuned:
                    jax.block_until_ready(self._tuned(segment))

    def tune(self, segment: Segment) -> None:
        with self._settings():
            self._state, self._report = jax.block_until_ready(self._tuned(segment))

    def train(self, segment: Segment) -> None:
        with self._settings():
            found = self._train_scan(self._plain, self._train, self._rows(segment))
            self._plain, self._plain_losses = jax.block_until_ready(found)

    def tuned_report(self) -> Report:
        losses, last = self._report
        found = last.hypergradient
        return Report(
            inner_losses=np.asarray(losses, np.float64),
            tuned=bool(last.tuned),
            outer_loss=float(found.outer_loss),
            hypergradient={name: float(value) for name, value in found.total.items()},
            values={name: float(value) for name, value in last.hparams.items()},
            status=Status(int(found.status)).name,
        )

    def plain_losses(self) -> Array:
        return np.asarray(self._plain_losses, np.float64)

    def tuned_weights(self) -> Weights:
        return as_numpy(self._state["params"])

    def plain_weights(self) -> Weights:
        return as_numpy(self._plain[0])

    def _tuned(self, segment: Segment) -> Any:
        valid = self._valid
        if segment.valid_rows is not None:
            valid = {name: values[segment.valid_rows] for name, values in valid.items()}
        return self._tune_scan(self._state, self._train, valid, self._rows(segment))

    def _rows(self, segment: Segment) -> Any:
        """Row numbers of each step; of no columns where each step sees all rows."""
        if segment.rows is None:
            return jnp.zeros((segment.steps, 0), jnp.int32)
        return jnp.asarray(segment.rows, jnp.int32)

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        return precision_and_device(self._plan.dtype, self._device)


@contextlib.contextmanager
def precision_and_device(dtype: str, device: Any) -> Iterator[None]:
    """Inside it arrays are made on the device, and float64 exists where it is asked for."""
    with jax.enable_x64(dtype == "float64"), jax.default_device(device):
        yield


def sgd(values: Any) -> optax.GradientTransformation:
    """v ← momentum · v + g + weight_decay · w; w ← w - learning_rate · v."""
    return optax.chain(
        optax.add_decayed_weights(values["weight_decay"]),
        optax.sgd(values["learning_rate"], momentum=values["momentum"]),
    )


def adam(values: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, whose derivative is finite at gradients of zero as well."""
    return ng.optim.adamw(**values)


OPTIMIZERS = {"sgd": sgd, "adam": adam}


def tuner_for(loss: Any, plan: Plan, outer_optimizer: optax.GradientTransformation | None = None) -> ng.OnePass:
    """The one-pass tuner of the plan; its outer optimizer is Adam unless another is given."""
    fixed, optimizer = plan.fixed, OPTIMIZERS[plan.inner]
    update = ng.WeightUpdate(loss, lambda hparams: optimizer({**fixed, **hparams}), plan.carry)
    return ng.OnePass(
        ng.BilevelProblem(update, outer_loss=loss),
        hparams=spaces(plan.tuned, plan.inner),
        every=plan.every,
        method=plan.method,
        outer_optimizer=outer_optimizer or optax.adam(plan.outer_lr),
        throw=False,  # a run that diverges is stopped by its status, in every backend alike
    )


def model_loss(task: Task, params: dict[str, JaxArray], hparams: Any, batch: dict[str, JaxArray]) -> JaxArray:
    """Mean squared error, or mean cross entropy, of one hidden ReLU layer."""
    hidden = jax.nn.relu(batch["x"] @ params["hidden.weight"].T + params["hidden.bias"])
    predicted = hidden @ params["output.weight"].T + params["output.bias"]
    if task == "classification":
        return optax.softmax_cross_entropy_with_integer_labels(predicted, batch["y"]).mean()
    return jnp.mean((predicted - batch["y"]) ** 2)


def as_batch(part: Part, dtype: str) -> dict[str, JaxArray]:
    """x and y in the dtype, but for class numbers and word numbers."""
    both = {"x": part.x, "y": part.y}
    return {name: jnp.asarray(a, jnp.int32 if a.dtype.kind == "i" else dtype) for name, a in both.items()}


def as_numpy(params: dict[str, JaxArray]) -> Weights:
    """The weights as NumPy arrays."""
    return {name: np.array(value) for name, value in params.items()}


def device_named(name: str) -> Any:
    """The device: a platform, or a platform and a number as in gpu:1."""
    platform, _, number = name.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        there = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise OptionError(
            f"--device {name!r}: jax has no such device, limit: {there}. Remedy: use --device cpu."
        ) from None


def _picked(train: dict[str, JaxArray], rows: JaxArray) -> dict[str, JaxArray]:
    return {name: values[rows] for name, values in train.items()} if rows.size else train


def _tuned_scan(tuner: ng.OnePass, state: Any, train: Any, valid: Any, rows: JaxArray) -> Any:
    """(state, (inner losses, what the last step saw)) after one step a row of `rows`."""

    def body(carry: Any, picked: JaxArray) -> tuple[Any, Any]:
        after, info = tuner.step(carry, _picked(train, picked), valid)
        return after, info

    state, infos = lax.scan(body, state, rows)
    return state, (infos.inner_loss, jax.tree.map(lambda values: values[-1], infos))


def _plain_scan(loss: Any, optimizer: Any, run: Any, train: Any, rows: JaxArray) -> Any:
    """((params, optimizer state), losses) after one step a row of `rows`."""

    def body(carry: Any, picked: JaxArray) -> tuple[Any, JaxArray]:
        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params, None, _picked(train, picked))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return lax.scan(body, run, rows)


ENGINE = JaxEngine
