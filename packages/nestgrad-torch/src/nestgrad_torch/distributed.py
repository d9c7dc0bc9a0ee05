"""Several processes: each takes the losses of its own batch, and all move as one process on the joined batch would.

A loss is a process's own mean; what is meant is the mean of them over the group, for batches of equal size. Its
gradient g = mean_r g_r is exchanged in the forward pass, and in the backward pass stands for one's own part, so that
what is pulled back through a process's graph is its share: (∂F/∂w)ᵀq = mean_r (∂F_r/∂w)ᵀq, one all-reduce a product.
So the vectors of every solver are the same bits in every process, and none ever solves a system of its own.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nestgrad import InvalidInput, ProcessLost, UnsupportedModule, tree

LIMIT = 60.0
"""Seconds that an exchange may take before its processes are given up."""


class Group:
    """Means over the processes of a group; `None` for one process alone, whose means are what they are given."""

    def __init__(self, process_group: Any = None) -> None:
        self._group = process_group
        self.size = 1 if process_group is None else dist.get_world_size(process_group)

    def share(self, value: Tensor) -> Tensor:
        """The mean of a value over the group; its derivative is that of one's own part."""
        return value if self.size == 1 else _Shared.apply(value, self)

    def mean(self, parts: Sequence[Tensor | None]) -> list[Any]:
        """The mean of each part over the group, by one exchange; None, which must be so in every process, is kept."""
        if self.size == 1:
            return list(parts)
        there = [part.detach() for part in parts if part is not None]
        if not there:
            return list(parts)
        joined = self.reduced(torch.cat([part.reshape(-1) for part in there]))
        views = iter(joined.split([part.numel() for part in there]))
        return [None if part is None else next(views).view(part.shape) for part in parts]

    def reduced(self, vector: Tensor) -> Tensor:
        """The mean of a new vector over the group, written into it."""
        self._all_reduce(vector, dist.ReduceOp.SUM)
        return vector.div_(self.size)

    def require_replicas(self, params: Tensor) -> None:
        """Raise InvalidInput unless every process holds the same params."""
        if self.size == 1:
            return
        both = torch.stack([params, -params])
        self._all_reduce(both, dist.ReduceOp.MAX)
        gap = float((both[0] + both[1]).max())
        if gap != 0.0:
            raise InvalidInput(
                f"params: they differ by {gap:.3g} between {self.size} processes, limit 0. "
                "Remedy: seed every process alike, or pass a DistributedDataParallel, which sends them round."
            )

    def _all_reduce(self, vector: Tensor, operation: Any) -> None:
        began = time.monotonic()
        try:
            work = dist.all_reduce(vector, operation, group=self._group, async_op=True)
            if work is not None:
                work.wait(datetime.timedelta(seconds=LIMIT))
        except RuntimeError as failure:
            raise ProcessLost(
                f"process {dist.get_rank(self._group)} of {self.size}: an exchange failed after "
                f"{time.monotonic() - began:.1f} s, limit: {LIMIT:g} s and all {self.size} processes alive. Remedy: "
                "start the group again from the last saved state, which holds all that a run needs."
            ) from failure


ALONE = Group()
"""One process."""


class _Shared(torch.autograd.Function):
    """Forward: the mean over the group. Backward: one's own part, whose mean is taken after the pull."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:  # noqa: ARG004
        return group.reduced(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return slopes[0], None


def unwrapped(params: Any, process_group: Any) -> tuple[Any, Group]:
    """(params, their group): a DistributedDataParallel's module in its group, sharded params in their mesh's."""
    own = None
    if isinstance(params, nn.parallel.DistributedDataParallel):
        params, own = params.module, params.process_group
    else:
        leaves = params.parameters() if isinstance(params, nn.Module) else tree.leaves(params)
        own = next((_mesh_group(leaf) for leaf in leaves if is_sharded(leaf)), None)
    if own is None:
        return params, ALONE if process_group is None else Group(process_group)
    if process_group is not None and process_group is not own:
        raise InvalidInput(
            "process_group: 2 groups, the params' own and the one given, limit 1. Remedy: leave process_group out."
        )
    return params, Group(own)


def is_sharded(leaf: Any) -> bool:
    """Whether a tensor is spread over the processes of a mesh, as fully_shard leaves it."""
    return isinstance(leaf, Tensor) and hasattr(leaf, "full_tensor")


def whole(leaf: Any) -> Any:
    """A sharded tensor put together, without a graph, in every process; any other as it is."""
    return leaf.detach().full_tensor() if is_sharded(leaf) else leaf


def _mesh_group(leaf: Any) -> Any:
    mesh = leaf.device_mesh
    if mesh.ndim != 1:
        raise UnsupportedModule(
            f"params: a mesh of {mesh.ndim} dimensions, limit: 1. Remedy: shard over one dimension, or pass "
            "whole tensors and process_group."
        )
    return mesh.get_group()


def bytes_moved(
    *, weights: int, hparams: int, products: int, processes: int, direct: int = 0, itemsize: int = 4
) -> dict[str, int]:
    """Bytes that each process sends, by a ring, in a "training step" and in a "hyper step", which trains as well.

    A training step reduces the gradient and the loss, n + 1 numbers for n = weights. A hyper step reduces besides: the
    outer loss with its gradient, 1 + n + direct (the entries of hparams that the outer loss uses itself); each of the
    solver's products, n; and the last pull, to the m = hparams entries: in all n (2 + products) + m + direct + 2. A
    ring sends 2 (k - 1) / k of every reduced number for k processes. Look-back i takes i - 1 products, so for m ≪ n a
    hyper step of look-back 5 moves 6 times the bytes of a training step: with T = 10, 1.5 times plain training's.
    """
    training = weights + 1
    hyper = weights * (2 + products) + hparams + direct + 2
    ring = 2 * (processes - 1) * itemsize

    def sent(numbers: int) -> int:
        return -(-ring * numbers // processes)

    return {"training step": sent(training), "hyper step": sent(hyper)}
