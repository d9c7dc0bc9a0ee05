"""PES: antithetic particles through the windows of an unroll; no derivative is taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import PES, HyperGradient, WeightUpdate
from nestgrad_reference._carry import Carried, carried
from nestgrad_reference._checks import scalar_loss
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._trajectory import advance, distance
from nestgrad_reference._tree import Vector, concatenate, flatten


@METHODS.register(PES)
def pes(spec: PES, call: Call) -> HyperGradient:
    """total = 1/(2σN) Σ_i Σ_k ξ_ik [L_k(i, +) - L_k(i, -)], ξ_ik = Σ_{j≤k} ε_ij."""
    h, _ = flatten(call.hparams)
    rng = np.random.default_rng(call.key)
    noise = orthogonal_rows(rng, spec.num_pairs, spec.windows * h.size).reshape(-1, spec.windows, h.size)
    total = np.zeros_like(h)
    for rows in noise:
        (ahead, _, _), (behind, _, _) = (_run(spec, call, h + sign * spec.sigma * rows) for sign in (1.0, -1.0))
        total += np.cumsum(rows, axis=0).T @ (ahead - behind)
    total /= 2.0 * spec.sigma * spec.num_pairs
    losses, before, last = _run(spec, call, np.tile(h, (spec.windows, 1)))
    found = Outcome(
        loss=float(losses.sum()) / spec.windows,
        direct=np.zeros_like(h),
        indirect=total,
        w=np.asarray(concatenate(last.params)),
        optimality=distance(before, last),
        steps=spec.num_steps,
    )
    return finish(spec, call, found, params=last.params, opt_state=last.opt_state)


def orthogonal_rows(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """count rows of length √size in blocks of up to `size` orthogonal ones, each block uniform."""
    blocks: list[np.ndarray] = []
    for start in range(0, count, size):
        basis, upper = np.linalg.qr(rng.normal(size=(size, size)))
        basis *= np.sign(np.diag(upper))  # makes the distribution uniform
        blocks.append(np.sqrt(size) * basis.T[: count - start])
    return np.concatenate(blocks)


def _run(spec: PES, call: Call, windows: np.ndarray) -> tuple[Vector, Carried, Carried]:
    """The outer loss at the end of each window, row k of `windows` its hyperparameters; the last two states."""
    inner, batches = call.problem.inner, iter(call.batches(spec.num_steps))
    loss = scalar_loss(call.problem.outer_loss, "outer_loss")
    _, restore = flatten(call.hparams)
    at = carried(inner, call.params, call.hparams, call.opt_state, whole=isinstance(inner, WeightUpdate))
    before, losses = at, []
    for h in windows:
        values: Any = restore(h)
        for _ in range(spec.truncation):
            before, at = at, advance(inner, at, values, next(batches))
        losses.append(float(loss(at.params, values, call.outer_batch)))
    return np.array(losses), before, at
