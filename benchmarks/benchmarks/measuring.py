"""Processor time of several contestants in one process, in rounds whose order is shuffled."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

LEAST = 0.02
"""Seconds of processor time that one reading should last at least; its clock counts in microseconds."""


def processor_time(call: Callable[[], Any], times: int = 1) -> float:
    """Seconds of this process's processor time for one call, the mean of several."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times


def rounds(contestants: Mapping[str, Callable[[], Any]], count: int, seed: int = 0) -> dict[str, list[float]]:
    """name -> one reading a round, in seconds a call; each contestant is called twice before, to warm it."""
    repeats = {}
    for name, call in contestants.items():
        call()
        repeats[name] = max(1, round(LEAST / max(processor_time(call), 1e-6)))
    shuffled, order = random.Random(seed), list(contestants)  # noqa: S311  (an order, no secret)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(count):
        shuffled.shuffle(order)
        for name in order:
            found[name].append(processor_time(contestants[name], repeats[name]))
    return found


def ratios(found: list[float], unit: list[float]) -> list[float]:
    """Round by round, since what slows one reading of a round slows the others of it."""
    return [a / b for a, b in zip(found, unit, strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
