"""Spectra of game optimizers: how fast momentum with a complex coefficient goes to, or away from, a fixed point.

Near a fixed point a game's joint gradient is Ĝ ω, Ĝ the game Jacobian. Complex momentum

    μ' = β μ - Ĝ ω,      ω' = ω + Re(α μ')

is then a linear map of (Re μ, Im μ, ω), and each eigenvalue λ of Ĝ gives three of its eigenvalues z, the roots of

    (z - 1)(z - β)(z - β̄) + (λ z / 2) [α (z - β̄) + ᾱ (z - β)] = 0.

Players in turn on a bilinear zero-sum game with singular values σ have instead, the step being a filter h(z) from
gradient to ω with poles and zeros as above, the six roots of 1 + σ² z h(z)² = 0. The largest |z| is the rate: the
error's factor a step, below 1 where the map converges. (Lorraine et al. 2022; the roots derived here.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from nestgrad import InvalidInput, Turns


def momentum_roots(eigenvalues: Any, *, step_size: complex, momentum: complex) -> np.ndarray:
    """z of complex momentum for each eigenvalue λ of the game Jacobian: an array (eigenvalues, 3)."""
    values = _spectrum("momentum_roots", eigenvalues)
    poles, zeros = _filter(complex(step_size), complex(momentum))
    return _roots(np.broadcast_to(poles, (len(values), 4)) + values[:, None] * zeros)


def alternating_roots(singular_values: Any, *, step_size: complex, momentum: complex) -> np.ndarray:
    """z of complex momentum, players in turn, on a bilinear zero-sum game: an array (singular values, 6)."""
    values = _spectrum("alternating_roots", singular_values)
    poles, zeros = _filter(complex(step_size), complex(momentum))
    squared, through = np.polymul(poles, poles), np.polymul([1.0, 0.0], np.polymul(zeros, zeros))
    both = np.concatenate([np.zeros(7 - len(through)), through])[-7:]
    return _roots(np.broadcast_to(squared, (len(values), 7)) + (values**2)[:, None] * both)


def rate(spectrum: Any, *, step_size: complex, momentum: complex, turns: Turns = "simultaneous") -> float:
    """The largest |z|: the factor of the error a step, once the slowest part is all that is left.

    spectrum: eigenvalues of the game Jacobian; for players in turn the singular values of a bilinear game's matrix.
    """
    roots = momentum_roots if _turns(turns) == "simultaneous" else alternating_roots
    return float(np.abs(roots(spectrum, step_size=step_size, momentum=momentum)).max())


def converges_for_small_steps(momentum: Any, *, turns: Turns = "simultaneous") -> np.ndarray:
    """Whether, on every bilinear zero-sum game, each small enough real step size converges; for each β of an array.

    With |β| < 1 and a = 1 - Re β: where (Im β)² > a² (2 - a) / (2 + a), and for players in turn a² (1 - a) / (1 + a).
    No real β does at once; in turn every β with Re β < 0 does. Where eigenvalues of a game have real parts above 0,
    every |β| < 1 does. (Lorraine et al. 2022; from the roots to second order in the step size.)
    """
    beta = np.asarray(momentum, complex)
    a, most = 1.0 - beta.real, 2.0 if _turns(turns) == "simultaneous" else 1.0
    return (np.abs(beta) < 1.0) & (beta.imag**2 > a**2 * (most - a) / (most + a))


def extragradient_rate(eigenvalues: Any, *, step_size: float) -> float:
    """Of ω' = ω - η Ĝ (ω - η Ĝ ω): the largest |1 - ηλ + (ηλ)²|; a step costs two gradients."""
    steps = float(step_size) * _spectrum("extragradient_rate", eigenvalues)
    return float(np.abs(1.0 - steps + steps**2).max())


def optimistic_rate(eigenvalues: Any, *, step_size: float) -> float:
    """Of ω' = ω - 2η Ĝ ω + η Ĝ ω₋₁: the largest root of z² - (1 - 2ηλ) z - ηλ = 0 in size."""
    steps = float(step_size) * _spectrum("optimistic_rate", eigenvalues)
    one = np.ones_like(steps)
    return float(np.abs(_roots(np.stack([one, 2.0 * steps - one, -steps], axis=1))).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class BestMomentum:
    """What a search found: step size α > 0, momentum β, and their rate."""

    step_size: float
    momentum: complex
    rate: float

    @property
    def argument(self) -> float:
        """arg β, in radians from 0 to π; 0 where β is 0."""
        return abs(math.atan2(self.momentum.imag, self.momentum.real)) if self.momentum else 0.0


def best_momentum(spectrum: Any, *, argument: float | None = None, turns: Turns = "simultaneous") -> BestMomentum:
    """The step size and momentum of the least rate, at this argument of β in radians or, with None, at any.

    By a grid of step sizes in units of 1 / max |λ|, of |β| and of arg β, its best points then refined by the simplex of
    Nelder and Mead. The rate is not convex in them: what is found is the best of those searches.
    """
    values = _spectrum("best_momentum", spectrum)
    size = float(np.abs(values).max())
    if size == 0.0:
        raise InvalidInput("best_momentum: every eigenvalue is 0, limit: one that is not. Remedy: leave them out.")
    if argument is not None and not 0.0 <= argument <= math.pi:
        raise InvalidInput(
            f"best_momentum: argument {argument!r}, limit: radians from 0 to π. Remedy: the conjugate of β has the "
            "same rate, so pass its argument's size."
        )

    def found(point: Sequence[float]) -> float:
        step, modulus = math.exp(point[0]), 1.0 / (1.0 + math.exp(-point[1]))
        angle = argument if argument is not None else math.pi * (0.5 - 0.5 * math.cos(point[2]))
        return rate(values / size, step_size=step, momentum=modulus * np.exp(1j * angle), turns=turns)

    angles = [0.0] if argument is not None else list(np.linspace(0.0, math.pi, 11))
    grid = [[math.log(s), b, a] for s in _STEPS for b in _LOGITS for a in angles]
    tried = sorted(grid, key=found)[:_STARTS]
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxfev": 600}

    def refined(start: Any) -> Any:
        return scipy.optimize.minimize(found, start, method="Nelder-Mead", options=options)

    best = min((refined(start) for start in tried), key=lambda end: end.fun)
    for _ in range(_RESTARTS):  # the least rate is where roots meet: an edge, along which a simplex goes flat
        again = refined(best.x)
        if again.fun > best.fun - 1e-9:
            break
        best = again
    step, modulus = math.exp(best.x[0]), 1.0 / (1.0 + math.exp(-best.x[1]))
    angle = argument if argument is not None else math.pi * (0.5 - 0.5 * math.cos(best.x[2]))
    return BestMomentum(step_size=step / size, momentum=complex(modulus * np.exp(1j * angle)), rate=float(best.fun))


def recommend_argument(
    eigenvalues: Any, *, arguments: Sequence[float] = (0.0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi)
) -> tuple[BestMomentum, ...]:
    """The best step size and momentum at each argument of β, the least rate first, for a measured spectrum.

    eigenvalues: of the game Jacobian near the fixed point. Where real parts rule, as in cooperation, 0 comes first;
    where imaginary ones do, as in a zero-sum game, arguments between 0 and π do. π/8 is what Lorraine et al. (2022) try
    first.
    """
    found = [best_momentum(eigenvalues, argument=argument) for argument in arguments]
    return tuple(sorted(found, key=lambda best: best.rate))


_STEPS = tuple(np.geomspace(0.003, 3.0, 18))  # small arguments ask for small steps
_LOGITS = tuple(np.linspace(-3.0, 4.0, 10))
_STARTS = 3
_RESTARTS = 20


def _filter(step_size: complex, momentum: complex) -> tuple[np.ndarray, np.ndarray]:
    """Denominator and numerator of h(z), degree 3 each: (z-1)(z-β)(z-β̄) and (z/2)[α(z-β̄) + ᾱ(z-β)]."""
    real, square = momentum.real, abs(momentum) ** 2
    poles = np.polymul([1.0, -1.0], [1.0, -2.0 * real, square])
    zeros = np.array([0.0, step_size.real, -(step_size * momentum.conjugate()).real, 0.0])
    return poles, zeros


def _roots(polynomials: np.ndarray) -> np.ndarray:
    """Roots of each row, a polynomial with a leading 1, as eigenvalues of its companion matrix."""
    count, degree = len(polynomials), polynomials.shape[1] - 1
    companion = np.zeros((count, degree, degree), complex)
    companion[:, 1:, :-1] = np.eye(degree - 1)
    companion[:, 0, :] = -polynomials[:, 1:] / polynomials[:, :1]
    return np.linalg.eigvals(companion)


def _spectrum(title: str, values: Any) -> np.ndarray:
    found = np.atleast_1d(np.asarray(values, complex)).ravel()
    if not found.size or not np.isfinite(found).all():
        raise InvalidInput(f"{title}: got {values!r}, limit: one or more finite numbers. Remedy: leave the others out.")
    return found


def _turns(value: Any) -> Turns:
    if value not in ("simultaneous", "alternating"):
        raise InvalidInput(f'turns: got {value!r}, limit: "simultaneous" or "alternating". Remedy: pass one of them.')
    return value
