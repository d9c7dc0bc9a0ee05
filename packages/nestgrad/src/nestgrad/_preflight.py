"""Preflight: what differences of a function say about a derivative that is zero, or that is not what they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from nestgrad._errors import DisconnectedHyperparameter, NestgradWarning, WrongDerivative, ZeroHypergradient

STEPS = (1e-4, 1e-2, 0.5, 5.0)
"""Relative steps at which a hyperparameter with a zero derivative is tried."""

_NEAR, _FAR = 1e-3, 1e-2
_AGREE, _DIFFER = 0.05, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the preflight found: a warning's kind, what it is about, and the whole message."""

    kind: type[NestgradWarning]
    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One hyperparameter as the preflight sees it.

    value(step): the probed scalar with every entry x of the hyperparameter moved to x + step · |x|, or + step where
    x is 0.
    slope: its derivative in step at 0, by automatic differentiation; size: the norm of its derivative in the entries.
    noise: relative rounding error of value.
    """

    name: str
    value: Callable[[float], float]
    slope: float
    size: float
    noise: float


def examine_probe(probe: Probe, allow_no_effect: Collection[str]) -> Finding | None:
    """A ZeroHypergradient or WrongDerivative finding, or None when the derivative is in order."""
    base = probe.value(0.0)
    if probe.size == 0.0:
        return _of_zero(probe, base, probe.name in allow_no_effect)
    ahead, behind, farther = probe.value(_NEAR), probe.value(-_NEAR), probe.value(_FAR)
    near, far = (ahead - behind) / (2.0 * _NEAR), (farther - base) / _FAR
    largest = max(abs(near), abs(far))
    rounding = 100.0 * probe.noise * max(abs(base), abs(ahead), abs(behind)) / _NEAR
    if largest < rounding or abs(near - far) > _AGREE * largest:
        return None  # the differences themselves cannot be trusted here
    if abs(near - probe.slope) <= _DIFFER * max(largest, abs(probe.slope)):
        return None
    return Finding(
        kind=WrongDerivative,
        name=probe.name,
        message=(
            f"{probe.name}: derivative {probe.slope:.3g} along its value, limit: within {_DIFFER:.0%} of the "
            f"difference {near:.3g}. Remedy: one of several paths to the loss is cut (detach, stop_gradient, .item()), "
            "or a custom derivative is not one."
        ),
    )


def _of_zero(probe: Probe, base: float, allowed: bool) -> Finding | None:
    for step in STEPS:
        for signed in (step, -step):
            change = abs(probe.value(signed) - base)
            if change > 10.0 * probe.noise * abs(base):
                return Finding(
                    kind=ZeroHypergradient,
                    name=probe.name,
                    message=(
                        f"{probe.name}: derivative exactly 0, limit: not 0, as a relative step of {step:g} changes the "
                        f"losses by {change:.3g}. Remedy: look for round, floor, sign, a threshold, a clamp or a dead "
                        "unit on its way to the loss; an exactly stationary value looks the same."
                    ),
                )
    if allowed:
        return None
    return Finding(
        kind=ZeroHypergradient,
        name=probe.name,
        message=(
            f"{probe.name}: derivative exactly 0, and no relative step up to {STEPS[-1]:g} changes the losses, limit: "
            "some effect. Remedy: remove it, or name it in allow_no_effect."
        ),
    )


def report_findings(findings: Iterable[Finding], *, strict: bool) -> tuple[Finding, ...]:
    """Give each finding as a warning; with strict, raise the first as DisconnectedHyperparameter."""
    found = tuple(findings)
    for finding in found:
        if strict:
            raise DisconnectedHyperparameter(finding.message)
        warnings.warn(finding.message, finding.kind, stacklevel=3)
    return found
