"""All of a tree of arguments that a trace depends on, but for the values of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import UnsupportedSpec

_PLAIN = (Tensor, nn.Parameter)


def signature(values: Any) -> tuple[tuple[Hashable, ...], list[Tensor]]:
    """(structure, shapes, strides, dtypes, devices and the values of other leaves; the tensors in order)."""
    tokens: list[Hashable] = []
    leaves: list[Tensor] = []
    _note(values, tokens, leaves)
    return tuple(tokens), leaves


def _note(value: Any, tokens: list[Hashable], leaves: list[Tensor]) -> None:
    kind = value.__class__
    if kind in _PLAIN:
        tokens.append((value.shape, value.stride(), value.dtype, value.device, value.is_inference()))
        leaves.append(value)
    elif kind is dict or (kind is not tuple and isinstance(value, Mapping)):  # asking for a Mapping is slow
        tokens.append((kind, *value))
        for child in value.values():
            _note(child, tokens, leaves)
    elif isinstance(value, (list, tuple)):
        tokens.append((kind, len(value)))
        for child in value:
            _note(child, tokens, leaves)
    else:
        tokens.append((kind, _constant(value)))


def _constant(value: Any) -> Hashable:
    """A leaf that is part of the program."""
    try:
        hash(value)
    except TypeError:
        known = False
    else:
        known = not isinstance(value, Tensor)
    if not known:
        raise UnsupportedSpec(
            f"compile=True: a leaf of type {type(value).__name__}, limit: plain tensors, and hashable constants, by "
            "whose values programs are told apart. Remedy: pass torch.as_tensor(...) of it, or compile=False."
        )
    return value


def surroundings(device: torch.device) -> tuple[Hashable, ...]:
    """The settings of torch that a trace depends on."""
    kind = device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_default_dtype(), torch.get_autocast_dtype(kind)
    return (torch.get_default_dtype(),)


def module_token(module: nn.Module) -> tuple[Hashable, ...]:
    """A module's layers with their modes, and the state of its frozen params, which a trace holds as they are."""
    frozen = [(id(p), p._version) for p in module.parameters() if not p.requires_grad]  # noqa: SLF001
    return (id(module), *((id(layer), layer.training) for layer in module.modules()), *frozen)


def modules_within(*functions: Any) -> list[nn.Module]:
    """The modules that these functions hold or name: their modes are part of what is traced."""
    found: dict[int, nn.Module] = {}
    for function in functions:
        for value in _held(function):
            if isinstance(value, nn.Module):
                found[id(value)] = value
    return list(found.values())


def _held(function: Any) -> list[Any]:
    if isinstance(function, partial):
        return [*_held(function.func), *function.args, *function.keywords.values()]
    values = [function, getattr(function, "__self__", None)]
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return values
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not yet filled
            continue
    values += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return [*values, *(function.__defaults__ or ())]


def functions_of(problem: Any) -> list[Callable[..., Any]]:
    """What a problem calls."""
    inner = problem.inner
    names = ("loss", "map", "residual", "optimizer", "prox")
    return [problem.outer_loss, *(getattr(inner, name) for name in names if hasattr(inner, name))]


def codes(functions: list[Callable[..., Any]]) -> tuple[Hashable, ...]:
    """What is written in these functions, whatever they close over."""
    return tuple(getattr(function, "__code__", type(function)) for function in functions)
