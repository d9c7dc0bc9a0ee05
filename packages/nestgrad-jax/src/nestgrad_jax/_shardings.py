"""Where arrays are, when params are spread over a mesh of devices."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


def beside(params: Any, tree: Any) -> Any:
    """The tree with its arrays of one device put on every device of the mesh that params are on, if they are on one.

    So that a step's program meets the same shardings from its first call on, and is compiled once.
    """
    placed = [leaf.sharding for leaf in jax.tree.leaves(params) if isinstance(leaf, Array) and _has_value(leaf)]
    meshes = [place.mesh for place in placed if isinstance(place, NamedSharding)]
    if not meshes:
        return tree
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def put(leaf: Any) -> Any:
        alone = isinstance(leaf, Array) and _has_value(leaf) and isinstance(leaf.sharding, SingleDeviceSharding)
        return jax.device_put(leaf, everywhere) if alone else leaf

    return jax.tree.map(put, tree)


def _has_value(leaf: Any) -> bool:
    return not isinstance(leaf, Tracer)
