"""Progress of a run: live on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import rich.live
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

LINES = 20
"""So many lines, at most, does a whole run put into a log."""


class Display(Protocol):
    """Shows where a run stands."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        """The steps taken and what there is to see, in the order given."""
        ...


def display(console: Console, total: int, unit: str = "step") -> Display:
    """Live on a terminal, lines elsewhere."""
    return Live(console, total, unit) if console.is_terminal else Lines(console, total, unit)


class Live:
    """A bar with the time left, and the latest figures below it."""

    def __init__(self, console: Console, total: int, unit: str) -> None:
        columns = (TextColumn(unit), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
        self._bar = Progress(*columns, console=console, auto_refresh=False)
        self._task = self._bar.add_task(unit, total=total)
        self._live = rich.live.Live(self._bar, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        self._bar.update(self._task, completed=step)
        self._live.update(Group(self._bar, _grid(figures)))


def _grid(figures: Mapping[str, float]) -> RichTable:
    """Names above, figures below, in fixed places."""
    grid = RichTable.grid(padding=(0, 3, 0, 0))
    for name in figures:
        grid.add_column(min_width=max(len(name), 9))
    grid.add_row(*figures, style="dim")
    grid.add_row(*map(number, figures.values()))
    return grid


class Lines:
    """A line now and then: the first figures, each twentieth of the run, the last."""

    def __init__(self, console: Console, total: int, unit: str) -> None:
        self._console, self._total, self._unit = console, total, unit
        self._shown = -1
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        left = self._left(step)
        share = step * LINES // self._total
        if share == self._shown:
            return
        self._shown = share
        said = "  ".join([*(f"{name} {number(value)}" for name, value in figures.items()), *left])
        self._console.print(
            f"{self._unit} {step:>{len(str(self._total))}}/{self._total}  {said}", highlight=False, soft_wrap=True
        )

    def _left(self, step: int) -> list[str]:
        """Time left at the pace since the first call, which may have waited for a compiler."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
            return []
        first, began = self._first
        if step == first:
            return []
        return [f"{(now - began) / (step - first) * (self._total - step):.0f} s left"]


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"
