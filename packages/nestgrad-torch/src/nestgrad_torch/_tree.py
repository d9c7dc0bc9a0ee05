"""Params, hparams and batches as flat lists of tensors, and back; the checks that they are fit to differentiate."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from nestgrad import DeviceMismatch, DtypeMismatch, InvalidInput, NonDifferentiableHyperparameter, tree
from nestgrad_torch._modules import ModuleParams, Places
from nestgrad_torch.distributed import unwrapped, whole


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all entries."""
    return torch.cat([t.reshape(-1) for t in tensors])


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector, shaped like the tensors."""
    # Tensor.split, which looks at its argument in Python, takes as long as the views themselves.
    parts = vector.split_with_sizes([t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]


class Params:
    """The params of one call: their structure, their values, how a loss is to receive them, and who else holds them."""

    def __init__(self, params: Any, process_group: Any = None) -> None:
        params, self.group = unwrapped(params, process_group)
        self.module = params if isinstance(params, nn.Module) else None
        self.tree: Any = params
        self.buffers: Mapping[str, Tensor] = {}
        self._places: Places | None = None
        if self.module is not None:
            self._places = Places(self.module)
            self.tree = {name: whole(p) for name, p in self.module.named_parameters() if p.requires_grad}
            self.buffers = {name: b.detach().clone() for name, b in self.module.named_buffers()}
        elif self.group.size > 1:
            self.tree = tree.map(whole, params)
        named = tree.named_leaves(self.tree)
        for name, leaf in named.items():
            _require_differentiable(name, leaf)
        if not any(leaf.numel() for leaf in named.values()):
            raise InvalidInput(
                f"params: 0 trainable entries in {len(named)} leaves, limit: at least 1. "
                "Remedy: pass tensors, or set requires_grad."
            )
        _require_wide(next(iter(named.items())))
        _require_distinct(named)
        self.names = list(named)
        self.leaves: list[Tensor] = list(named.values())

    def holding(self, values: Any, buffers: Mapping[str, Tensor]) -> Params:
        """The same structure with other values (a tree like `tree`) and buffers."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)  # copy.copy's way round __reduce_ex__ takes as long as a small layer
        other.tree, other.buffers = values, buffers
        (other.leaves,) = tree.matched(self.tree, values)
        return other

    def of(self, values: Any) -> Params:
        """Another tree of tensors, held by the same processes."""
        other = Params(values)
        other.group = self.group
        return other

    def fresh(self) -> list[Tensor]:
        """Leaves of a new graph with the same values; storage is shared and never written."""
        return [leaf.detach().requires_grad_() for leaf in self.leaves]

    def fresh_buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers, for one forward pass to change."""
        return {name: buffer.clone() for name, buffer in self.buffers.items()}

    def vector(self) -> Tensor:
        """One leaf of a new graph: a copy of all values in one vector."""
        return flat([leaf.detach() for leaf in self.leaves]).requires_grad_()

    def view(self, leaves: Sequence[Tensor], buffers: dict[str, Tensor] | None = None) -> Any:
        """The params as a loss receives them, holding these leaves; forward passes change these buffers, or copies."""
        if self._places is None:
            return tree.unflatten(self.tree, leaves)
        named = dict(zip(self.names, leaves, strict=True))
        return ModuleParams(self._places, named, self.fresh_buffers() if buffers is None else buffers)

    def like_given(self, vector: Tensor) -> Any:
        """What the user passed in, with these values: a tree of new tensors, or a copy of the module."""
        values = [part.clone() for part in split(vector.detach(), self.leaves)]
        if self.module is None:
            return tree.unflatten(self.tree, values)
        moved = copy.deepcopy(self.module)
        held = dict(moved.named_parameters())
        with torch.no_grad():
            for name, value in zip(self.names, values, strict=True):
                held[name].copy_(value)
        return moved

    def plain(self, vector: Tensor) -> Any:
        """The params as a tree of tensors, views of a vector."""
        return tree.unflatten(self.tree, split(vector, self.leaves))

    def shape(self, vector: Tensor, buffers: dict[str, Tensor] | None = None) -> Any:
        """The params as a loss receives them, as views of a vector."""
        return self.view(split(vector, self.leaves), buffers)


class Joint:
    """All params as one leaf of a new graph, so that a derivative crosses the graph's edge once and not once a layer.

    vector: the leaf. It holds copies of small params. Large ones are used where they are, and the vector only stands
    for them: its entries are zeros that take no memory. After a loss, `require_unchanged` tells whether it wrote to
    those.
    """

    def __init__(self, point: Params) -> None:
        self._point, count = point, sum(leaf.numel() for leaf in point.leaves)
        self._stands = count >= _LARGE
        first = point.leaves[0].detach()
        self.vector = first.new_zeros(()).expand(count).requires_grad_() if self._stands else point.vector()
        self._versions = [_writes(leaf) for leaf in point.leaves] if self._stands else []

    def shape(self, vector: Tensor, buffers: dict[str, Tensor] | None = None) -> Any:
        """The params as a loss receives them: those that the leaf stands for, or views of another vector."""
        if not self._stands or vector is not self.vector:
            return self._point.shape(vector, buffers)
        return self._point.view(_Standing.apply(vector, *self._values()), buffers)

    def still(self) -> Any:
        """The params as a loss receives them, without a graph."""
        return self._point.view(self._values()) if self._stands else self._point.shape(self.vector.detach())

    def norm(self) -> Tensor:
        """|w|."""
        return vector_norm(torch.stack([vector_norm(x) for x in self._values()]) if self._stands else self.vector)

    def in_one(self) -> Tensor | None:
        """The vector where it holds the values; None where it stands for them."""
        return None if self._stands else self.vector

    def require_unchanged(self) -> None:
        """Raise InvalidInput where the values in use have been written to since, by counts on the host."""
        point = self._point
        for name, leaf, version in zip(point.names, point.leaves, self._versions, strict=False):
            if _writes(leaf) != version:
                raise InvalidInput(
                    f"params[{name!r}]: changed in place {_writes(leaf) - version} times by a loss, limit 0. "
                    "Remedy: let the loss make new tensors, as w = w * 2 in the place of w.mul_(2)."
                )

    def _values(self) -> list[Tensor]:
        return [leaf.detach() for leaf in self._point.leaves]


_LARGE = 100_000
"""Entries from which a copy of all params is more than a node of Python in the graph."""


def _writes(leaf: Tensor) -> int:
    """How often the tensor's storage has been written to, through it or its views."""
    return leaf._version  # noqa: SLF001  (has no public name)


class _Standing(torch.autograd.Function):
    """The values that a vector stands for; gradients in them are the vector's."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, *values: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return flat(slopes), *(None for _ in slopes)


def _require_differentiable(name: str, leaf: Any) -> None:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
        raise InvalidInput(
            f"params[{name!r}]: got {kind}, limit: a real floating-point tensor. "
            "Remedy: convert it, or let the loss close over constants."
        )
    _require_usable(f"params[{name!r}]", leaf)


def _require_wide(first: tuple[str, Tensor]) -> None:
    """Refuse half precision; a leaf that differs from the first is refused as such."""
    name, leaf = first
    if leaf.dtype not in {torch.float32, torch.float64}:
        raise InvalidInput(
            f"params[{name!r}]: got {leaf.dtype}, limit: torch.float32 or torch.float64, since products with the "
            "Jacobian underflow below. Remedy: keep a float32 copy of the params and cast it inside the loss."
        )


def _require_usable(name: str, leaf: Tensor) -> None:
    if leaf.is_inference():
        raise InvalidInput(
            f"{name}: got an inference-mode tensor, limit: one that autograd can use. "
            f"Remedy: create it outside torch.inference_mode(), or pass {name}.clone()."
        )


def _require_distinct(named: Mapping[str, Tensor]) -> None:
    """Refuse a tensor under two paths: it would be two weights here, and is one in the module that it comes from."""
    first: dict[int, str] = {}
    for name, leaf in named.items():
        other = first.setdefault(id(leaf), name)
        if other != name:
            raise InvalidInput(
                f"params[{name!r}] is the tensor of params[{other!r}]: 2 paths, limit 1. "
                "Remedy: hold a tied weight under one path, or pass the nn.Module; clone one that stands for itself."
            )


def as_hparams(hparams: Any, like: Tensor) -> Any:
    """The hparams with Python floats made tensors of the params' dtype and device; others are refused by name."""

    def convert(name: str, leaf: Any) -> Tensor:
        if isinstance(leaf, float):
            return torch.tensor(leaf, dtype=like.dtype, device=like.device)
        if not isinstance(leaf, Tensor) and not isinstance(leaf, int):
            raise InvalidInput(
                f"hparams[{name!r}]: got {type(leaf).__name__}, limit: a tensor or a float. Remedy: torch.as_tensor it."
            )
        if isinstance(leaf, int) or not leaf.is_floating_point():
            kind = type(leaf).__name__ if isinstance(leaf, int) else leaf.dtype
            raise NonDifferentiableHyperparameter(
                f"hparams[{name!r}]: got {kind}, limit: a real floating-point value. "
                "Remedy: use a continuous relaxation, or search over it outside."
            )
        _require_usable(f"hparams[{name!r}]", leaf)
        return leaf

    named = tree.named_leaves(hparams)
    if not named:
        raise InvalidInput("hparams: 0 leaves, limit: at least 1. Remedy: pass the values to differentiate in.")
    return tree.unflatten(hparams, [convert(name, leaf) for name, leaf in named.items()])


def check_matching(params: Params, **others: Any) -> None:
    """Raise DtypeMismatch or DeviceMismatch unless all floating tensors share the first param's dtype and device."""
    first = params.leaves[0]
    dtype, device = first.dtype, first.device
    trees = [("params", dict(zip(params.names, params.leaves, strict=True)))]
    trees += [(title, tree.named_leaves(other)) for title, other in others.items()]
    for title, named in trees:
        for n, leaf in named.items():
            if not isinstance(leaf, Tensor):
                continue
            if leaf.device != device or leaf.is_inference() or (leaf.dtype != dtype and leaf.is_floating_point()):
                _refuse(f"{title}[{n!r}]" if n or title == "params" else title, leaf, first, params.names[0])


def _refuse(name: str, leaf: Tensor, first: Tensor, first_name: str) -> None:
    """The error for a tensor that does not match the first param."""
    _require_usable(name, leaf)
    if leaf.is_floating_point() and leaf.dtype != first.dtype:
        raise DtypeMismatch(
            f"{name} is {leaf.dtype}, limit: {first.dtype} as params[{first_name!r}]. Remedy: {name}.to({first.dtype})."
        )
    raise DeviceMismatch(
        f"{name} is on {leaf.device}, limit: {first.device} as params[{first_name!r}]. "
        f"Remedy: {name}.to({str(first.device)!r})."
    )


@contextlib.contextmanager
def untouched(params: Params) -> Iterator[None]:
    """Put back the random number generators and, for a module, its buffers, whatever a loss does to them."""
    devices = {leaf.device.index for leaf in params.leaves if leaf.device.type == "cuda"}
    module = params.module
    kept = {} if module is None else {name: b.detach().clone() for name, b in module.named_buffers()}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        if module is not None:
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    buffer.copy_(kept[name])
