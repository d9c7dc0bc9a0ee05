"""What a study is: settings, pieces of work, tables and figures.

A module of a study ends with `STUDY = Study(...)` and is named in nestgrad_lab.studies.catalogue. Its settings are a
frozen dataclass of plain numbers, strings and tuples of them; its work imports a framework inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestgrad_lab.data.dataset import Array

Arrays = Mapping[str, Array]
Results = Mapping[str, Arrays]
"""What each piece has found, by its name."""
Cell = str | float | bool


@dataclass(frozen=True)
class Piece:
    """A part of the work, of a few minutes at most: what is between two of them is what a crash costs.

    name: one of its own. arguments: plain numbers, strings and lists. needs: names of earlier pieces whose results it
    reads.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of words, numbers and yes or no; notes: sentences below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a piece is run with. results: of the pieces that it needs.

    tick: told now and then which share of the piece is done, in [0, 1]; it is where Ctrl-C takes effect.
    """

    seed: int
    device: str
    backend: str
    results: Results
    tick: Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, the work that answers it, and how the answer is shown.

    note: what is small here, what full is, where it departs from the paper. settings: (small, full) by name, the first
    the default; one alone may be called "". pieces: the work, in an order in which needs come first. work: one piece,
    deterministic. tables, figures: of all results; the figures are matplotlib's, by name. version: raised whenever the
    same settings give other numbers, so that no earlier result is taken for a new one.
    """

    name: str
    title: str
    note: str
    settings: Mapping[str, tuple[Any, Any]]
    pieces: Callable[[Any], Sequence[Piece]]
    work: Callable[[Any, Piece, Context], Arrays]
    tables: Callable[[Any, Results], Sequence[Table]]
    figures: Callable[[Any, Results], Mapping[str, Any]]
    backends: tuple[str, ...] = ("torch",)
    version: int = 1
