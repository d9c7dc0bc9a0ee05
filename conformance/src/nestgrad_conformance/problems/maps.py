"""Maps that are iterated, of points {"a": (2,), "b": (2,), "codes"}, and their derivatives by hand.

A map's matrix is drawn, and stands as integers beside what moves: so it has no tangent, and a compiling backend sees
one map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PARTS = ("a", "b")
_UNIT = 4096


@dataclass(frozen=True)
class LinearMap:
    """x ← M x."""

    xp: Any

    def __call__(self, point: Any) -> Any:
        return {**_times(point["codes"], self._bent(point)), "codes": point["codes"]}

    def _bent(self, point: Any) -> Any:
        return {part: point[part] for part in PARTS}


@dataclass(frozen=True)
class CurvedMap(LinearMap):
    """x ← M tanh(x)."""

    def _bent(self, point: Any) -> Any:
        return {part: self.xp.tanh(point[part]) for part in PARTS}


@dataclass(frozen=True)
class DescentMap:
    """w ← w - rate L'(w) with L = ¼ w⁴ - ½ w², of {"w": (1,)}."""

    rate: float

    def __call__(self, point: Any) -> Any:
        w = point["w"]
        return {"w": w - self.rate * (w**3 - w)}


@dataclass(frozen=True)
class LogisticMap:
    """w ← 4 w (1 - w), of {"w": (1,)}."""

    def __call__(self, point: Any) -> Any:
        return {"w": 4.0 * point["w"] * (1.0 - point["w"])}


def coded(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """A matrix (4, 4) as the integers of a point, rounded to 1/4096."""
    whole = np.round(_UNIT * matrix).astype(np.int32)
    places = {"a": slice(0, 2), "b": slice(2, 4)}
    return {row + column: whole[places[row], places[column]] for row in PARTS for column in PARTS}


def decoded(codes: dict[str, np.ndarray]) -> np.ndarray:
    """The matrix that the integers stand for."""
    return np.block([[codes[row + column] for column in PARTS] for row in PARTS]) / _UNIT


def point_of(x: np.ndarray, codes: Any) -> dict[str, Any]:
    """The point of a vector (4,)."""
    return {"a": x[:2], "b": x[2:], "codes": codes}


def rows_of(directions: np.ndarray, codes: Any) -> dict[str, Any]:
    """Directions (m, 4) as a tree like the point."""
    held = {name: np.zeros((len(directions), *block.shape)) for name, block in codes.items()}
    return {"a": directions[:, :2], "b": directions[:, 2:], "codes": held}


def trajectory(matrix: np.ndarray, x: np.ndarray, num_steps: int, *, curved: bool) -> tuple[list[np.ndarray], Any]:
    """(J_0 to J_{k-1}, x_k)."""
    jacobians: list[np.ndarray] = []
    for _ in range(num_steps):
        jacobians.append(matrix * (1.0 - np.tanh(x) ** 2) if curved else matrix)
        x = matrix @ (np.tanh(x) if curved else x)
    return jacobians, x


def _times(codes: Any, x: Any) -> dict[str, Any]:
    def block(row: str, column: str) -> Any:
        scaled = codes[row + column] * x[column][None, :]
        return scaled @ (0.0 * x[column] + 1.0)  # a sum over columns, in the point's own type

    return {row: (block(row, "a") + block(row, "b")) / _UNIT for row in PARTS}
