"""What an experiment leaves for people: results.csv, tables, figures and one page."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.engine import versions
from nestgrad_lab.experiments.cells import Cell, rows_of
from nestgrad_lab.experiments.figures import Track, draw
from nestgrad_lab.experiments.folder import ExperimentFolder
from nestgrad_lab.experiments.spec import Experiment
from nestgrad_lab.experiments.statistics import Summary, best_of, summarise
from nestgrad_lab.experiments.tables import COLUMNS, as_latex, as_markdown, notes, summary_of, table_rows
from nestgrad_lab.experiments.work import result_of

Results = list[tuple[Cell, dict[str, Array]]]


def finished_results(cells: list[Cell], folder: ExperimentFolder) -> Results:
    """The arrays of the cells that are finished."""
    found = ((cell, result_of(cell, folder.cell(cell))) for cell in cells)
    return [(cell, arrays) for cell, arrays in found if arrays is not None]


def summaries_of(experiment: Experiment, results: Results) -> dict[tuple[str, str], Summary]:
    """By data set and algorithm, those with a finished cell."""
    found: dict[tuple[str, str], Summary] = {}
    for data in experiment.data:
        for name in experiment.algorithms:
            own = [row for cell, arrays in results if _is(cell, data.title, name) for row in rows_of(cell, arrays)]
            if not own:
                continue
            test, seen, validation = (
                np.array([row[column] for row in own]) for column in ("test_loss", "best_test_loss", "validation_loss")
            )
            counted = best_of(experiment.algorithm(name).best_of, validation, experiment.seed)
            found[data.title, name] = summarise(test[counted], seen[counted], experiment.resamples, experiment.seed)
    return found


def render(
    experiment: Experiment, folder: ExperimentFolder, results: Results, *, state: str, total: int, command: str
) -> dict[tuple[str, str], Summary]:
    """Write all of it; the same results give the same bytes. The summaries come back."""
    summaries = summaries_of(experiment, results)
    rows, said = table_rows(summaries), notes(experiment.resamples, f"at {experiment.looks} looks on the way")
    folder.write("results.csv", results_csv(results))
    folder.write("table.md", as_markdown(rows, said))
    folder.write("table.tex", as_latex(rows))
    told = {f"{data} | {name}": summary_of(one) for (data, name), one in summaries.items()}
    folder.write("summary.json", json.dumps(_finite({"experiment": experiment.name, "rows": told}), indent=1) + "\n")
    pictures: dict[str, str] = {}
    if results:
        tracks = _tracks(results)
        for name in experiment.figures:
            files = draw(name, tracks)
            for kind, content in files.items():
                folder.write(f"{name}.{kind}", content)
            pictures[name] = base64.b64encode(files["svg"]).decode()
    folder.write(
        "report.html",
        _page(
            title=experiment.title,
            note=experiment.note,
            state=state,
            finished=len(results),
            total=total,
            command=command,
            columns=COLUMNS,
            rows=rows,
            notes=said,
            figures=pictures,
            settings=_settings(experiment),
        ),
    )
    return summaries


def results_csv(results: Results) -> str:
    """A row a run, in the order of the cells."""
    rows = [row for cell, arrays in results for row in rows_of(cell, arrays)]
    file = io.StringIO()
    pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n")
    return file.getvalue()


def _page(**content: Any) -> str:
    from jinja2 import Environment  # noqa: PLC0415

    text = (importlib.resources.files("nestgrad_lab.experiments") / "page.html").read_text()
    return Environment(autoescape=True).from_string(text).render(**content)


def _settings(experiment: Experiment) -> dict[str, str]:
    one = experiment
    shown: dict[str, Any] = {
        "starts": one.starts,
        "training steps": one.steps,
        "batch": one.batch or "all rows",
        "network": ", ".join([one.network, *(f"{name} {size}" for name, size in one.sizes.items())]),
        "largest gradient norm": one.clip or "any",
        "seed": one.seed,
        "dtype": one.dtype,
        "backend": one.backend,
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    return {name: str(value) for name, value in shown.items()}


def _tracks(results: Results) -> list[Track]:
    """The blocks of each algorithm side by side, of its runs those that count."""
    found: dict[tuple[str, str], list[tuple[Cell, Mapping[str, Array]]]] = {}
    for cell, arrays in results:
        found.setdefault((cell.data.title, cell.algorithm), []).append((cell, arrays))
    tracks: list[Track] = []
    for (data, algorithm), blocks in found.items():
        cell, first = blocks[0]
        names = [name for name in first if name.startswith("seen:") and name != "seen:step"]
        validation = np.concatenate([arrays["validation_loss"] for _, arrays in blocks])
        counted = best_of(cell.rule.best_of, validation, cell.experiment.seed)
        tracks.append(
            Track(
                data=data,
                algorithm=algorithm,
                steps=first["seen:step"],
                seen={
                    name.removeprefix("seen:"): np.concatenate([arrays[name] for _, arrays in blocks], axis=1)[
                        :, counted
                    ]
                    for name in names
                },
                final=np.concatenate([arrays["test_loss"] for _, arrays in blocks])[counted],
                every=cell.rule.every,
                lookback=cell.rule.lookback,
            )
        )
    return tracks


def _is(cell: Cell, data: str, algorithm: str) -> bool:
    return cell.data.title == data and cell.algorithm == algorithm


def _finite(content: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    return None if isinstance(content, float) and content - content != 0 else content
