"""What losses get for params when each row of a batch has hyperparameters of its own: a view of φ and of the codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import GatedResponse, InvalidInput
from nestgrad_jax._gated_response import axes_of, gate, laid


@dataclass(frozen=True, slots=True)
class GatedParams:
    """The params w_φ(c) of each row of a batch, as a view of φ; the layers of `gated` compute from it.

    params["fc1"] is the view of a subtree, for a layer; params["fc1"]["weight"], of a leaf, its values row by row,
    (B, *shape). general is the tree of φ's bias, for what is no row's own, as a penalty. As a pytree its leaves are
    those of φ and the codes. weights: φ. codes: (B, h), or None for the code 0 in each of `rows` rows. InvalidInput for
    codes that φ's gates do not take.
    """

    response: GatedResponse
    weights: Any
    codes: Array | None
    rows: int | None = None
    path: str = ""

    def __post_init__(self) -> None:
        taken = {jnp.shape(leaf)[-1] for leaf in jax.tree.leaves(self.weights["gates"])}
        if self.codes is None or (self.codes.ndim == len(("rows", "h")) and taken == {self.codes.shape[1]}):
            return
        raise InvalidInput(
            f"GatedParams: codes of shape {self.codes.shape}, limit: (rows, {', '.join(map(str, sorted(taken)))}), the "
            "entries that the gates of these weights take. Remedy: a row for each example, of as many entries as the "
            "hparams that init_response was given."
        )

    @property
    def general(self) -> Any:
        """φ's bias, a tree like the params (or this subtree of them)."""
        return self.weights["bias"]

    def __contains__(self, key: Any) -> bool:
        return isinstance(self.general, Mapping) and key in self.general

    def __len__(self) -> int:
        return len(self.general)

    def __iter__(self) -> Iterator[Any]:
        """The keys of a mapping; the views of a sequence."""
        return iter(self.general) if isinstance(self.general, Mapping) else (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        return self.child(key).seen()

    def child(self, key: Any) -> GatedParams:
        """The view of what is under this key, a leaf too; InvalidInput where there is nothing."""
        path = f"{self.path}/{key}" if self.path else str(key)
        try:
            below = {name: part[key] for name, part in self.weights.items()}
        except (KeyError, IndexError, TypeError):
            raise InvalidInput(
                f"params[{path!r}]: no such entry, limit: {_entries(self.general)}. Remedy: name one."
            ) from None
        return _unchecked((self.response, self.rows, path), (below, self.codes))

    def seen(self) -> Any:
        """The view itself; of a single leaf its values row by row."""
        if not jax.tree_util.all_leaves([self.general]):
            return self
        bias, weight, gates = self.parts()
        if gates is None:
            return jnp.broadcast_to(bias, (self.rows or 1, *bias.shape))
        return bias[None] + laid(gates, self.axis, bias.shape) * weight[None]

    @property
    def axis(self) -> int:
        """The axis of a leaf's outputs."""
        return axes_of(self.response, self.general, self.path)[0]

    def parts(self) -> tuple[Array, Array, Array | None]:
        """(bias, weight, one number for each row and output) of a leaf; the last None where no row has a code."""
        gates = None if self.codes is None else gate(self.weights["gates"], self.codes)
        return self.general, self.weights["weight"], gates


def _unchecked(static: Any, trees: Any) -> GatedParams:
    """A view of these, which may be whatever a transformation puts in the place of arrays."""
    view = object.__new__(GatedParams)
    names = ("response", "rows", "path", "weights", "codes")
    for name, value in zip(names, (*static, *trees), strict=True):
        object.__setattr__(view, name, value)
    return view


def _parts(view: GatedParams) -> Any:
    named = ((jax.tree_util.GetAttrKey(name), getattr(view, name)) for name in ("weights", "codes"))
    return tuple(named), (view.response, view.rows, view.path)


jax.tree_util.register_pytree_with_keys(GatedParams, _parts, _unchecked)


def _entries(general: Any) -> str:
    if isinstance(general, Mapping):
        return ", ".join(map(str, general))
    return f"an index below {len(general)}" if isinstance(general, (list, tuple)) else "none below it"
