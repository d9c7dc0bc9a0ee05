"""Problems of one weight and one hyperparameter, both 0-d, with closed forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case


@dataclass(frozen=True)
class ShrinkageInner:
    """½(w - a)² + ½λw²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * (params - batch) ** 2 + 0.5 * hparams * params**2


@dataclass(frozen=True)
class Distance:
    """½(w - b)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * (params - batch) ** 2


@dataclass(frozen=True)
class ExponentialInner:
    """exp(w) - λw."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.xp.exp(params) - hparams * params


def shrinkage(draw: Draw) -> tuple[Case, np.ndarray]:
    """w* = a / (1 + λ), G = -(w* - b) a / (1 + λ)²."""
    a, b, decay = np.asarray(2.0) + draw.normal(), draw.normal(), np.exp(draw.normal())
    w = a / (1.0 + decay)
    case = Case(
        inner_loss=ShrinkageInner,
        outer_loss=Distance,
        params=np.asarray(w),
        hparams=np.asarray(decay),
        inner_batch=np.asarray(a),
        outer_batch=b,
    )
    return case, np.asarray(-(w - b) * a / (1.0 + decay) ** 2)


def exponential(draw: Draw) -> tuple[Case, np.ndarray]:
    """w* = ln λ, G = (ln λ - b) / λ: not quadratic, exact."""
    level, b = np.exp(draw.normal()), draw.normal()
    case = Case(
        inner_loss=ExponentialInner,
        outer_loss=Distance,
        params=np.asarray(np.log(level)),
        hparams=np.asarray(level),
        inner_batch=np.asarray(0.0),
        outer_batch=b,
    )
    return case, np.asarray((np.log(level) - b) / level)
