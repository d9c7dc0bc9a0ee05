"""An nn.Module called with other tensors in the places of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from nestgrad import UnsupportedModule
from nestgrad_torch.distributed import is_sharded, whole

Place = tuple[dict[str, Any], str, str]
"""The table that a layer keeps the tensor in, its key there, and the name of the tensor in the module."""


class Places:
    """Where a module keeps its trainable params and its buffers.

    torch.func.functional_call finds this out on every call, which takes as long as a small network; and it puts a
    buffer that forward assigns anew into a dict that is then thrown away, so that the update would be lost.
    """

    def __init__(self, module: nn.Module) -> None:
        _require_plain(module)
        self.module = module
        trainable = [(n, p) for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad]
        self._params = _places(module, trainable, "_parameters")
        frozen = [(n, p) for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad]
        sharded = _places(module, [(n, p) for n, p in frozen if is_sharded(p)], "_parameters")
        self._fixed = [(table, key, whole(table[key])) for table, key, _ in sharded]
        self._muted = list(_sharding_hooks(module))
        self._buffers = _places(module, module.named_buffers(remove_duplicate=False), "_buffers")

    def call(self, params: Mapping[str, Tensor], buffers: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """module(*args, **kwargs) with these tensors; a buffer that forward assigns anew is put into `buffers`."""
        own = [(table, key, table[key]) for table, key, _ in (*self._params, *self._buffers, *self._fixed)]
        hooks = [(table, dict(table)) for table, _ in self._muted]
        try:
            for table, key in self._muted:
                del table[key]
            for table, key, tensor in self._fixed:
                table[key] = tensor
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
            for table, kept in hooks:
                table.clear()
                table.update(kept)


@contextlib.contextmanager
def recomputation_refused(module: nn.Module | None) -> Iterator[None]:
    """Refuse, in a backward pass, layers that run again, as activation checkpointing makes them.

    They would run with the module's own tensors, not with those that stood in their places in the forward pass.
    """
    if module is None:
        yield
        return
    names = {id(layer): name for name, layer in module.named_modules()}

    def refuse(layer: nn.Module, args: Any) -> None:
        if id(layer) in names:
            raise UnsupportedModule(
                f"params: layer {names[id(layer)] or 'the module itself'!r} runs again in the backward pass, as "
                "activation checkpointing makes it, limit: 0 such layers where params are other than the module's own. "
                "Remedy: leave the checkpointing out; Unrolled(checkpoint_every='sqrt') saves memory as well."
            )

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def _sharding_hooks(module: nn.Module) -> Iterator[tuple[Any, int]]:
    """The hooks, each by its table and key, that would gather and drop the params of a layer: here they are whole."""
    for layer in module.modules():
        for table in (layer._forward_pre_hooks, layer._forward_hooks):  # noqa: SLF001
            for key, hook in table.items():
                if type(getattr(hook, "__self__", None)).__name__ == "FSDPState":
                    yield table, key


def _require_plain(module: nn.Module) -> None:
    """Refuse layers whose tensors cannot be replaced, or whose forward pass is not what autograd sees."""
    for name, layer in module.named_modules():
        found = _wrapping(layer)
        if found is not None:
            what, remedy = found
            raise UnsupportedModule(
                f"params: layer {name or 'the module itself'!r} is {what}, limit: 0 such layers. Remedy: pass {remedy}."
            )


def _wrapping(layer: nn.Module) -> tuple[str, str] | None:
    """(what is wrong with a layer, what to pass instead)."""
    kind = type(layer)
    if isinstance(layer, torch.jit.ScriptModule):
        return "scripted", "the module as it was before torch.jit"
    if kind.__module__.startswith("torch._dynamo") or getattr(layer, "_compiled_call_impl", None) is not None:
        return "compiled by torch.compile", "the module as it was before, which a compiled one holds as ._orig_mod"
    bases = {base.__name__ for base in kind.__mro__ if base.__module__.startswith("torch.")}
    if bases & {"DataParallel", "DistributedDataParallel"}:
        return f"a {kind.__name__}", "its .module, or the outermost module wrapped as a DistributedDataParallel"
    if "FullyShardedDataParallel" in bases:
        return f"a {kind.__name__}", "the module as it was before it was sharded, or after fully_shard(module)"
    return None


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
