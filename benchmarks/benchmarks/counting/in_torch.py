"""What one call of our torch backend does, counted: no clock, and the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import nestgrad_torch

PASSES = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
READS: set[Any] = {
    *(getattr(Tensor, name) for name in ("item", "tolist", "numpy", "cpu", "equal", "is_nonzero")),
    *(getattr(Tensor, f"__{name}__") for name in ("bool", "float", "int", "index", "complex", "array")),
    torch.equal,
    torch.is_nonzero,
}


def counted(call: Callable[[], Any], losses: dict[str, int]) -> dict[str, int]:
    """The counts of one call: losses called, backward passes, matrix FLOP, bytes saved for backward, reads by the host.

    losses: how often the inner and the outer loss were called, which the problem keeps.
    """
    before = dict(losses)
    seen, saved = _Seen(), _Saved()
    with FlopCounterMode(display=False) as flop, saved.counted(), seen:
        call()
    return {
        "inner losses": losses["inner"] - before["inner"],
        "outer losses": losses["outer"] - before["outer"],
        "backward passes": seen.passes,
        "matrix FLOP": flop.get_total_flops(),
        "bytes saved for backward": saved.total(),
        "host reads": seen.reads,
    }


def compiled(call: Callable[[], Any]) -> dict[str, int]:
    """The counts of a call with compile=True: programs made by the first and by a second, and reads by the host."""
    made = []
    for _ in range(2):
        before = len(nestgrad_torch.compiled_programs())
        call()
        made.append(len(nestgrad_torch.compiled_programs()) - before)
    with _Seen() as seen:
        call()
    return {"programs": made[0], "programs made again": made[1], "host reads": seen.reads}


class _Seen(TorchFunctionMode):
    """Backward passes, and calls that bring numbers to the host; what they call in turn is not counted again."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = self.reads = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.passes += func in PASSES
        self.reads += func in READS
        return func(*args, **(kwargs or {}))


class _Saved:
    """The distinct storages that autograd saves for backward passes."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}

    def counted(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor
