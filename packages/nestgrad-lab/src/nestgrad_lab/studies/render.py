"""What a study leaves for people: results.json, table.md and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from nestgrad_lab.drawing import repeatable, saved
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.experiments.folder import ExperimentFolder
from nestgrad_lab.studies.study import Cell, Results, Table
from nestgrad_lab.studies.work import Plan


def render(plan: Plan, folder: ExperimentFolder, results: Results, command: str) -> tuple[list[Table], list[str]]:
    """Write all of it; the same results give the same bytes. The tables and the figures' files come back."""
    tables = list(plan.study.tables(plan.settings, results))
    told = {
        "study": plan.study.name,
        "command": command,
        "settings": asdict(plan.settings),
        "seed": plan.seed,
        "backend": plan.backend,
        "device": plan.device,
        "versions": versions(),
        "tables": [
            {"title": one.title, "columns": list(one.columns), "rows": [list(map(_plain, row)) for row in one.rows]}
            for one in tables
        ],
    }
    folder.write("results.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    head = [f"# {plan.study.title}", "", f"`{command}`", "", plan.study.note, ""]
    folder.write("table.md", "\n".join([*head, *map(as_markdown, tables)]))
    drawn: list[str] = []
    with repeatable():
        for name, figure in plan.study.figures(plan.settings, results).items():
            for kind, content in saved(figure).items():
                folder.write(f"{name}.{kind}", content)
            drawn.append(f"{name}.png")
    return tables, drawn


def as_markdown(table: Table) -> str:
    """Title, rows and notes."""
    lines = [_row(table.columns), "|" + "---|" * len(table.columns), *(_row(row) for row in as_text(table))]
    notes = [line for note in table.notes for line in ("", note)]
    return "\n".join([f"## {table.title}", "", *lines, *notes, ""])


def as_text(table: Table) -> list[list[str]]:
    """The rows as they are shown: numbers with four significant digits, yes or no."""
    return [[_shown(cell) for cell in row] for row in table.rows]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _shown(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    return str(cell) if isinstance(cell, int) else f"{cell:.4g}"


def _plain(cell: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
