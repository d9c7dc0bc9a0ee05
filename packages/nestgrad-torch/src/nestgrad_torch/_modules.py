"""An nn.Module called with other tensors in the places of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import InvalidInput

Place = tuple[dict[str, Any], str, str]
"""The table that a layer keeps the tensor in, its key there, and the name of the tensor in the module."""


class Places:
    """Where a module keeps its trainable params and its buffers.

    torch.func.functional_call finds this out on every call, which takes as long as a small network; and it puts a
    buffer that forward assigns anew into a dict that is then thrown away, so that the update would be lost.
    """

    def __init__(self, module: nn.Module) -> None:
        if any(isinstance(layer, torch.jit.ScriptModule) for layer in module.modules()):
            raise InvalidInput(
                "params: 1 or more scripted layers, limit 0. Remedy: pass the module as it was before torch.jit."
            )
        self.module = module
        trainable = [(n, p) for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad]
        self._params = _places(module, trainable, "_parameters")
        self._buffers = _places(module, module.named_buffers(remove_duplicate=False), "_buffers")

    def call(self, params: Mapping[str, Tensor], buffers: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """module(*args, **kwargs) with these tensors; a buffer that forward assigns anew is put into `buffers`."""
        own = [(table, key, table[key]) for table, key, _ in (*self._params, *self._buffers)]
        try:
            for table, key, name in self._params:
                table[key] = params[name]
            for table, key, name in self._buffers:
                table[key] = buffers[name]
            result = self.module(*args, **kwargs)
            for table, key, name in self._buffers:
                if table[key] is not buffers[name]:
                    buffers[name] = table[key].detach()
            return result
        finally:
            for table, key, tensor in own:
                table[key] = tensor


def _places(module: nn.Module, named: Iterable[tuple[str, Tensor]], table: str) -> list[Place]:
    """One place for each layer and key; a tied tensor has several, all under its first name."""
    found: dict[tuple[int, str], Place] = {}
    first: dict[int, str] = {}
    for name, tensor in named:
        layer, _, key = name.rpartition(".")
        kept = getattr(module.get_submodule(layer), table)
        found.setdefault((id(kept), key), (kept, key, first.setdefault(id(tensor), name)))
    return list(found.values())


class ModuleParams(dict[str, Tensor]):
    """A module's trainable params by name, callable like the module: what a loss receives for an nn.Module.

    Works wherever a dict of tensors does, `torch.func.functional_call` included. Frozen params are the module's own;
    buffers are copies, so a forward pass leaves the module as it was. Tied weights stand once, under their first name.
    """

    def __init__(self, places: Places, params: Mapping[str, Tensor], buffers: dict[str, Tensor]) -> None:
        super().__init__(params)
        self._places, self._buffers = places, buffers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._places.call(self, self._buffers, *args, **kwargs)
