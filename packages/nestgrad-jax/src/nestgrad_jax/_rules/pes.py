"""PES: persistent evolution strategies, all particles side by side."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import PES, BilevelProblem, HyperGradient
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._steps import Batches, State, Steps
from nestgrad_jax._rules.unrolled import run
from nestgrad_jax._slopes import scalar_loss


@METHODS.register(PES)
def pes(spec: PES, problem: BilevelProblem, call: Call) -> HyperGradient:
    """2N perturbed runs and the unperturbed one."""
    entries, restore = ravel_pytree(call.hparams)
    steps, batches = Steps(problem.inner), Batches.of(call.inner_batch, call.inner_batches)
    noise = directions(spec, call.key, entries)  # (N, K, m)
    outer_loss = scalar_loss(problem.outer_loss, "outer_loss")

    def losses(shifts: Array) -> tuple[Array, State]:
        """(L_1 … L_K, last state) of the run whose window k has the hyperparameters λ + shifts[k]."""
        state, found = steps.start(call.params, call.hparams, call.opt_state), []
        for k in range(spec.windows):
            hparams = restore(entries + shifts[k])
            part = batches.part(k * spec.truncation, (k + 1) * spec.truncation)
            state = run(steps, state, hparams, part, spec.truncation)
            found.append(outer_loss(state[0], hparams, call.outer_batch))
        return jnp.stack(found), state

    both = jnp.concatenate([spec.sigma * noise, -spec.sigma * noise])
    ahead, behind = jnp.split(jax.vmap(lambda shifts: losses(shifts)[0])(both), 2)
    plain, (params, opt_state) = losses(jnp.zeros_like(noise[0]))
    summed = jnp.cumsum(noise, axis=1)
    exact = jax.lax.Precision.HIGHEST
    total = jnp.einsum("ikm,ik->m", summed, ahead - behind, precision=exact) / (2.0 * spec.sigma * spec.num_pairs)
    indirect: Any = restore(total)
    return truncated(
        direct=jax.tree.map(jnp.zeros_like, indirect),
        indirect=indirect,
        outer_loss=plain.mean(),
        stats=stats_of(params, indirect, steps=spec.num_steps),
        params=params,
        opt_state=opt_state,
    )


def directions(spec: PES, key: Array, entries: Array) -> Array:
    """ε, (N, K, m): blocks of up to K·m orthogonal rows of length √(K·m), uniform by the key."""
    size = spec.windows * entries.size
    blocks = math.ceil(spec.num_pairs / size)

    def block(one: Array) -> Array:
        basis, upper = jnp.linalg.qr(jax.random.normal(one, (size, size), entries.dtype))
        # The signs of R's diagonal make Q uniform over the orthogonal group.
        return math.sqrt(size) * (basis * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)[None, :]).T

    rows = jax.vmap(block)(jax.random.split(key, blocks)).reshape(blocks * size, size)
    return rows[: spec.num_pairs].reshape(spec.num_pairs, spec.windows, entries.size)
