"""PES: antithetic particles through the windows of an unroll; no derivative in the hyperparameters is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad import PES, tree
from nestgrad_torch._derivatives import scalar_loss
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._steps import Draws, Moment, Steps
from nestgrad_torch._tree import flat, split


@METHODS.register(PES)
def pes(spec: PES, call: Call) -> Findings:
    """total = 1/(2σN) Σ_i Σ_k ξ_ik [L_k(i, +) - L_k(i, -)], ξ_ik = Σ_{j≤k} ε_ij; every run makes the same draws."""
    hparams = tree.leaves(call.hparams)
    h = flat([leaf.detach() for leaf in hparams])
    noise = orthogonal_rows(spec.num_pairs, spec.windows * h.numel(), 0 if call.key is None else call.key)
    noise = noise.to(h.dtype).to(h.device).view(-1, spec.windows, h.numel())
    draws, total = Draws(call.point), torch.zeros_like(h)
    for rows in noise:
        ahead, behind = (_run(spec, call, draws, h + sign * spec.sigma * rows)[0] for sign in (1.0, -1.0))
        total += rows.cumsum(0).T @ (ahead - behind)
    total /= 2.0 * spec.sigma * spec.num_pairs
    losses, before, end = _run(spec, call, draws, h.expand(spec.windows, -1))
    found = Outcome(
        loss=losses.mean(),
        direct=[None] * len(hparams),
        indirect=list(split(total, hparams)),
        weights=end.weights,
        optimality=torch.linalg.vector_norm(end.weights - before.weights),
        steps=spec.num_steps,
    )
    params = tree.map(torch.clone, call.point.plain(end.weights))
    return finish(call, found, params=params, opt_state=end.opt_state)


def orthogonal_rows(count: int, size: int, key: int) -> Tensor:
    """count rows of length √size, in blocks of up to `size` orthogonal ones, each block uniform."""
    generator = torch.Generator("cpu").manual_seed(key)
    blocks: list[Tensor] = []
    for start in range(0, count, size):
        drawn = torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu")
        basis, upper = torch.linalg.qr(drawn)
        basis = basis * torch.sign(upper.diagonal())  # makes the distribution uniform
        blocks.append(size**0.5 * basis.T[: count - start])
    return torch.cat(blocks)


def _run(spec: PES, call: Call, draws: Draws, windows: Tensor) -> tuple[Tensor, Moment, Moment]:
    """The outer loss at the end of each window, row k of `windows` its hyperparameters; the last two states."""
    draws.again()
    steps, t = Steps(call.problem.inner, call.point), 0
    like = tree.leaves(call.hparams)
    at = before = steps.start(_values(call, windows[0], like), call.opt_state)
    losses = []
    for row in windows:
        values = _values(call, row, like)
        for _ in range(spec.truncation):
            before, at = at, steps(at, values, call.batch(t)).detached()
            t += 1
        params = call.point.shape(at.weights, {name: buffer.clone() for name, buffer in at.buffers.items()})
        losses.append(scalar_loss(call.problem.outer_loss, "outer_loss", params, values, call.outer_batch).detach())
    (joined,) = call.point.group.mean([torch.stack(losses)])
    return joined, before, at


def _values(call: Call, row: Tensor, like: list[Tensor]) -> Any:
    return tree.unflatten(call.hparams, split(row.contiguous(), like))
