"""JAX's own errors, turned into those of nestgrad where the cause is known: a name, a number and a remedy."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import jax
from jax import Array
from jax.core import Tracer

from nestgrad import DisconnectedHyperparameter, DoubleBackwardUnsupported, InvalidInput, NestgradError
from nestgrad_jax._tree import named_leaves


class explained:  # noqa: N801  (a context manager is read as a verb)
    """Run a call on these arguments; errors of JAX whose cause is known become ours, others pass as they are.

    given: a dataclass of trees by name; more of them as keywords.
    """

    __slots__ = ("_caller", "_given", "_trees")

    def __init__(self, caller: str, given: Any = None, **trees: Any) -> None:
        self._caller, self._given, self._trees = caller, given, trees

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if (
            error is None
            or isinstance(error, NestgradError)
            or not (isinstance(error, _TRANSLATED) or _is_of_sharding(error))
        ):
            return
        named = {} if self._given is None else {f.name: getattr(self._given, f.name) for f in fields(self._given)}
        named.pop("key", None)
        if (ours := _translated(self._caller, error, named | self._trees)) is not None:
            raise ours from error


_TRANSLATED = (TypeError, ValueError, RuntimeError, NotImplementedError)


def _is_of_sharding(error: object) -> bool:
    """Whether JAX could not tell the sharding of a result; the error's class is not public."""
    return type(error).__name__ == "ShardingTypeError"


def _translated(caller: str, error: BaseException, trees: dict[str, Any]) -> NestgradError | None:
    text = str(error)
    if _is_of_sharding(error):
        return InvalidInput(
            f"{caller}: 1 product or more over a mesh axis of type Explicit does not say how its result is sharded, "
            f"limit 0 ({text.splitlines()[0]}). Remedy: jax.make_mesh(..., axis_types=(AxisType.Auto, ...)), or keep "
            "params replicated on this mesh."
        )
    if "has been deleted" in text or "donated" in text:
        return _deleted(caller, trees)
    if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
        return DisconnectedHyperparameter(
            f"{caller}: 1 traced value is made a Python number or a NumPy array inside a loss, limit 0, as no "
            "derivative passes through it. Remedy: use jax.numpy, and no float(), .item(), int() or np.asarray()."
        )
    if "lax.while_loop" in text and "Reverse-mode" in text:
        return _second(caller, "lax.while_loop, or fori_loop with traced bounds,", "lax.scan or static bounds")
    if "custom_vjp" in text and "forward-mode" in text:
        return _second(caller, "a jax.custom_vjp function", "jax.custom_jvp, which works in both modes")
    if "callbacks do not support JVP" in text:
        return _second(caller, "a host callback (jax.pure_callback or io_callback)", "jax.numpy, or best_response")
    if found := re.search(r"[Dd]ifferentiation rule for '([\w-]+)' not implemented", text):
        return _second(caller, f"the operation {found[1]!r}", "an operation that JAX differentiates")
    if re.search(r"incompatible shapes|same shape|Incompatible shapes|must be equal", text) and "pytree" not in text:
        shapes = re.findall(r"\(\d[\d, ]*\)", text)
        return InvalidInput(
            f"{caller}: shapes {', '.join(shapes) or 'in a loss'} do not go together, limit: equal sizes "
            f"({text.splitlines()[0]}). Remedy: give batches and params sizes that fit."
        )
    return None


def _second(caller: str, what: str, instead: str) -> DoubleBackwardUnsupported:
    return DoubleBackwardUnsupported(
        f"{caller}: {what} stands between params and a loss, with 0 of the 2 derivatives in the mode needed, limit 2. "
        f"Remedy: use {instead}."
    )


def _deleted(caller: str, trees: dict[str, Any]) -> InvalidInput | None:
    for title, tree in trees.items():
        for name, leaf in named_leaves(title, tree):
            if isinstance(leaf, Array) and not isinstance(leaf, Tracer) and leaf.is_deleted():
                return InvalidInput(
                    f"{caller}: {name} has 0 live buffers, limit 1: it was donated or deleted. "
                    "Remedy: pass the array that the donating call returned, or leave donate_argnums out."
                )
    return None
