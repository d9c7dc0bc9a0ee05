"""A step of a small GAN in JAX, each player by an optax transformation; params and states are donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import nestgrad_jax as ng


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared: momentum with a real coefficient, as optax has it, and ours."""
    return {
        "real": optax.sgd(1e-3, momentum=0.8),
        "complex": ng.optim.complex_momentum(1e-3, modulus=0.8, argument=0.39),
    }


def steps(width: int, batch: int, times: int) -> dict[str, Callable[[], Any]]:
    """name -> so many alternating steps with it, each on networks of its own."""
    return {name: _game(rule, width, batch, times) for name, rule in optimizers().items()}


def _game(rule: optax.GradientTransformation, width: int, batch: int, times: int) -> Callable[[], Any]:
    keys = jax.random.split(jax.random.key(0), 4)
    generator, discriminator = _network(keys[0], 2, width, 2), _network(keys[1], 2, width, 1)
    real, noise = (jax.random.normal(key, (batch, 2)) for key in keys[2:])
    apart = jax.nn.softplus

    def fool(params: Any, other: Any) -> Any:
        return apart(-_apply(other, _apply(params, noise))).mean()

    def tell(params: Any, other: Any) -> Any:
        return apart(-_apply(params, real)).mean() + apart(_apply(params, _apply(other, noise))).mean()

    @partial(jax.jit, donate_argnums=0)
    def move(held: Any) -> Any:
        (players, states) = held
        for which, loss in enumerate((fool, tell)):
            slope = jax.grad(loss)(players[which], players[1 - which])
            updates, state = rule.update(slope, states[which], players[which])
            moved = optax.apply_updates(players[which], updates)
            players = (moved, players[1]) if which == 0 else (players[0], moved)
            states = (state, states[1]) if which == 0 else (states[0], state)
        return players, states

    players = generator, discriminator
    held = {"at": (players, tuple(rule.init(params) for params in players))}

    def step() -> None:
        for _ in range(times):
            held["at"] = move(held["at"])
        jax.block_until_ready(held["at"])

    return step


def _network(key: Any, inputs: int, width: int, outputs: int) -> Any:
    sizes = [(inputs, width), (width, width), (width, outputs)]
    keys = jax.random.split(key, len(sizes))
    return [(jax.random.normal(k, s) / s[0] ** 0.5, jnp.zeros(s[1])) for k, s in zip(keys, sizes, strict=True)]


def _apply(params: Any, x: Any) -> Any:
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]
