"""An experiment's table: as rows, as Markdown and as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestgrad_lab.experiments.statistics import Estimate, Summary

COLUMNS = ("data", "algorithm", "runs", "NaN", "mean", "median", "best", "mean seen", "median seen", "best seen")


def table_rows(summaries: Mapping[tuple[str, str], Summary]) -> list[list[str]]:
    """A row for each data set and algorithm, in the experiment's order; cells as COLUMNS."""
    return [
        [
            data,
            algorithm,
            str(one.runs),
            str(one.nan),
            _with_error(one.mean),
            _with_error(one.median),
            _number(one.best),
            _with_error(one.mean_seen),
            _with_error(one.median_seen),
            _number(one.best_seen),
        ]
        for (data, algorithm), one in summaries.items()
    ]


def on_screen(rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Names and cells of the columns that fit a screen: the first of them only where there are several data sets."""
    first = 0 if len({row[0] for row in rows}) > 1 else 1
    last = COLUMNS.index("best") + 1
    return list(COLUMNS[first:last]), [list(row[first:last]) for row in rows]


def as_markdown(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """The table, and below it what its columns are."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *notes, ""])


def as_latex(rows: Sequence[Sequence[str]]) -> str:
    """The table in the style of booktabs."""
    body = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in rows]
    head = " & ".join(_escaped(name) for name in COLUMNS) + r" \\"
    kinds = "ll" + "r" * (len(COLUMNS) - 2)
    top, bottom = rf"\begin{{tabular}}{{{kinds}}}", r"\end{tabular}"
    return "\n".join([top, r"\toprule", head, r"\midrule", *body, r"\bottomrule", bottom, ""])


def notes(resamples: int, looks: str) -> list[str]:
    """What the columns are."""
    final = (
        f"Test losses at the last step; mean and median are means of {resamples} bootstrap resamples, ± their standard "
        "deviation, over the runs that did not end in NaN; best is the lowest."
    )
    seen = (
        f"What was seen is the lowest test loss of each run {looks}, which no one without the test rows could have "
        "chosen; the same statistics."
    )
    return [final, "", seen]


def summary_of(one: Summary) -> dict[str, Any]:
    """The summary's numbers, for JSON."""
    return {
        "runs": one.runs,
        "nan": one.nan,
        **{f"{name}_{part}": getattr(getattr(one, name), part) for name in _ESTIMATES for part in _PARTS},
        "best": one.best,
        "best_seen": one.best_seen,
    }


_ESTIMATES = ("mean", "median", "mean_seen", "median_seen")
_PARTS = ("value", "resampled", "error")


def _with_error(one: Estimate) -> str:
    """The error to two digits, the value to as many places."""
    if not one.error > 0.0:
        return _number(one.resampled)
    places = max(0, 1 - math.floor(math.log10(one.error)))
    return f"{one.resampled:.{places}f} ± {one.error:.{places}f}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _escaped(text: str) -> str:
    for sign, latex in (("\\", r"\textbackslash{}"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$")):
        text = text.replace(sign, latex)
    return text
