"""The problems in jax: losses, a plain training step, and our library's form of each operation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import nestgrad_jax as ng
from benchmarks.methods import KEY, LETTERS, Method, methods, require
from benchmarks.operations import EVERY, TERMS
from benchmarks.problems import START, Problem


@dataclass(frozen=True, eq=False)
class Side:
    """One problem's arrays and losses. error(params, batch) has no penalty; penalised(params, decays, batch) has."""

    problem: Problem
    params: dict[str, Array]
    decays: dict[str, Array]
    inner: tuple[Array, Array]
    outer: tuple[Array, Array]
    error: Callable[[Any, Any], Array]
    calls: dict[str, int] = field(default_factory=lambda: {"inner": 0, "outer": 0})

    def penalised(self, p: Any, h: Any, batch: Any) -> Any:
        """error + ½ Σ exp(decay) w², one decay a weight or one for all."""
        if "all" in h:
            return self.error(p, batch) + 0.5 * jnp.exp(h["all"]) * sum(jnp.sum(w**2) for w in p.values())
        return self.error(p, batch) + 0.5 * sum(jnp.sum(jnp.exp(h[name]) * p[name] ** 2) for name in p)

    def penalised_loss(self, p: Any, h: Any, batch: Any) -> Any:
        """The penalised loss as our library is given it, its calls counted."""
        self.calls["inner"] += 1
        return self.penalised(p, h, batch)

    def inner_loss(self, p: Any, h: Any, batch: Any) -> Any:
        """The error as an inner loss, its calls counted."""
        self.calls["inner"] += 1
        return self.error(p, batch)

    def outer_loss(self, p: Any, h: Any, batch: Any) -> Any:
        """The error as an outer loss, its calls counted."""
        self.calls["outer"] += 1
        return self.error(p, batch)

    def unit(self) -> Callable[[], None]:
        """One plain training step: gradient of the penalised loss and SGD update, jitted, weights donated."""
        held = jax.tree.map(jnp.array, self.params)

        @functools.partial(jax.jit, donate_argnums=0)
        def move(weights: Any, decays: Any, batch: Any) -> Any:
            slope = jax.grad(self.penalised)(weights, decays, batch)
            return jax.tree.map(lambda w, g: w - self.problem.rate * g, weights, slope)

        def step() -> None:
            nonlocal held
            held = jax.block_until_ready(move(held, self.decays, self.inner))

        return step

    def plain_training(self, steps: int) -> Callable[[], None]:
        """Jitted steps of optax.sgd on the error, at the settings that tuning starts from."""
        rule, step = _sgd(START), jax.jit(self._plain_step, donate_argnums=0)
        held = jax.tree.map(jnp.array, (self.params, rule.init(self.params)))

        def train() -> None:
            nonlocal held
            for _ in range(steps):
                held = step(held, self.inner)
            jax.block_until_ready(held)

        return train

    def scanned(self, steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """(tuned, plain) training, each in one lax.scan."""
        tuner, state = self.one_pass()
        held: Any = self.params, _sgd(START).init(self.params)

        @jax.jit
        def tuned(state: Any, inner: Any, outer: Any) -> Any:
            return lax.scan(lambda s, _: (tuner.step(s, inner, outer)[0], None), state, length=steps)[0]

        @jax.jit
        def plain(held: Any, inner: Any) -> Any:
            return lax.scan(lambda s, _: (self._plain_step(s, inner), None), held, length=steps)[0]

        def tune() -> None:
            nonlocal state
            state = jax.block_until_ready(tuned(state, self.inner, self.outer))

        def train() -> None:
            nonlocal held
            held = jax.block_until_ready(plain(held, self.inner))

        return tune, train

    def _plain_step(self, held: Any, batch: Any) -> Any:
        weights, state = held
        updates, state = _sgd(START).update(jax.grad(self.error)(weights, batch), state, weights)
        return optax.apply_updates(weights, updates), state

    def ours(self, letter: str, *, compiled: bool = False) -> Callable[[], Any]:
        """Our library's call: a hypergradient in the decays, or for "d" one block of ten steps. Always compiled."""
        if letter == "d":
            tuner, state = self.one_pass()
            if not hasattr(tuner, "run"):
                raise NotImplementedError("nestgrad_jax.OnePass has no run")
            batches = [self.inner] * EVERY
            return lambda: tuner.run(state, batches, self.outer)
        return self.hypergradient(methods(self.problem.rate)[LETTERS[letter]])

    def hypergradient(self, method: Method) -> Callable[[], Any]:
        """A call of our library by any method; NotImplementedError where this backend does not support it."""
        require(ng, method)
        rate, key = self.problem.rate, {"key": KEY} if method.key else {}
        if method.kind == "minimize":
            inner = ng.Minimize(self.penalised_loss)
        else:
            inner = ng.WeightUpdate(self.penalised_loss, lambda h: optax.sgd(rate))
        return functools.partial(
            ng.hypergradient,
            ng.BilevelProblem(inner, self.outer_loss),
            self.params,
            self.decays,
            method=method.spec,
            inner_batch=self.inner,
            outer_batch=self.outer,
            **key,
        )

    def one_pass(self, *, compiled: bool = False) -> tuple[Any, Any]:
        """(tuner, its first state): every ten steps, five terms; learning rate, momentum and weight decay."""
        inner = ng.WeightUpdate(
            self.inner_loss,
            _sgd,
        )
        tuner = ng.OnePass(
            ng.BilevelProblem(inner, self.outer_loss),
            hparams={
                "lr": ng.Log10(START["lr"]),
                "decay": ng.Log10(START["decay"]),
                "momentum": ng.Logit(START["momentum"]),
            },
            every=EVERY,
            method=ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=1.0)),
            outer_optimizer=optax.adam(0.05),
        )
        return tuner, tuner.init(self.params)


def _sgd(h: Any) -> Any:
    return optax.chain(optax.add_decayed_weights(h["decay"]), optax.sgd(h["lr"], momentum=h["momentum"]))


def answer(letter: str, found: Any) -> list[Array]:
    """The hypergradient in what `ours` returned, as the floors return it."""
    if letter == "d":
        total = found[1].hypergradients[-1].total
        return [jnp.stack([total["lr"], total["decay"], total["momentum"]])]
    return [found.total[name] for name in found.total]


def wait(found: Any) -> None:
    """Until every array in the answer is there."""
    jax.block_until_ready(found)


def side(problem: Problem) -> Side:
    """The problem in jax, float32."""
    return Side(
        problem=problem,
        params={name: jnp.asarray(value) for name, value in problem.params.items()},
        decays={name: jnp.asarray(value) for name, value in problem.decays.items()},
        inner=(jnp.asarray(problem.inner[0]), jnp.asarray(problem.inner[1])),
        outer=(jnp.asarray(problem.outer[0]), jnp.asarray(problem.outer[1])),
        error=_ERRORS[problem.network],
    )


def _regression(p: Any, batch: Any) -> Any:
    hidden = jax.nn.relu(batch[0] @ p["w1"] + p["b1"])
    return jnp.mean((hidden @ p["w2"] + p["b2"] - batch[1]) ** 2)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _dense(p: Any, batch: Any) -> Any:
    hidden = jnp.tanh(batch[0] @ p["w1"] + p["b1"])  # with kinks, float32 and float64 take different branches
    hidden = jnp.tanh(hidden @ p["w2"] + p["b2"])
    return _cross_entropy(hidden @ p["w3"] + p["b3"], batch[1])


def _convolved(x: Any, kernel: Any, stride: int, padding: int) -> Any:
    around = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _residual(p: Any, batch: Any) -> Any:
    x = jax.nn.relu(_convolved(batch[0], p["stem"], 2, 1))
    for block, stride in ((1, 1), (2, 2), (3, 2)):
        hidden = jax.nn.relu(_convolved(x, p[f"first{block}"], stride, 1))
        hidden = _convolved(hidden, p[f"second{block}"], 1, 1)
        skip = f"skip{block}"
        x = jax.nn.relu(hidden + (_convolved(x, p[skip], stride, 0) if skip in p else x))
    return _cross_entropy(x.mean((1, 2)) @ p["w"] + p["b"], batch[1])


def _logistic(p: Any, batch: Any) -> Any:
    return optax.sigmoid_binary_cross_entropy(batch[0] @ p["w"], batch[1]).mean()


def _recurrent(p: Any, batch: Any) -> Any:
    """The products with the words are taken for all steps at once; the states begin at zero."""
    steps = p["words"][batch[0].T]
    for layer in (1, 2):
        entering = steps @ p[f"in{layer}"] + p[f"bias{layer}"]
        back, rest = p[f"back{layer}"], jnp.zeros_like(steps[0])

        def step(state: Any, given: Any, back: Any = back) -> Any:
            hidden, cell = state
            opened, kept, new, shown = jnp.split(given + hidden @ back, 4, axis=1)
            cell = jax.nn.sigmoid(kept) * cell + jax.nn.sigmoid(opened) * jnp.tanh(new)
            hidden = jax.nn.sigmoid(shown) * jnp.tanh(cell)
            return (hidden, cell), hidden

        _, steps = lax.scan(step, (rest, rest), entering)
    return _cross_entropy(steps @ p["w"] + p["b"], batch[1].T)


_ERRORS = {
    "regression": _regression,
    "dense": _dense,
    "residual": _residual,
    "logistic": _logistic,
    "recurrent": _recurrent,
}
LN10 = math.log(10.0)
