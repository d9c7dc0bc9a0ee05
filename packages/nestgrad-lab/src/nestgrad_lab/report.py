"""What `nestgrad tune` says at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from nestgrad_lab.models import score_name
from nestgrad_lab.progress import number
from nestgrad_lab.runs import State
from nestgrad_lab.settings import Settings
from nestgrad_lab.tables import print_table
from nestgrad_lab.tuning import Outcome, tune


def report_tuning(settings: Settings, console: Console | None = None) -> State:
    """Run it and print the table; returns how it ended."""
    console = console or Console()
    outcome = tune(settings, console)
    print_outcome(console, outcome)
    return outcome.state


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The table, the tuned values and where the rest is."""
    summary = outcome.summary
    if outcome.state == "interrupted":
        console.print(f"Interrupted at step {summary['step']}. So far:", highlight=False)
    rows = [
        ["validation loss", *_pair(summary["validation_loss"])],
        *_score_rows(summary),
        *_hyperparameter_rows(summary),
        *_time_rows(summary["time"]),
    ]
    print_table(console, "", ["same start, same batches", "without tuning", "with tuning"], rows)
    if summary["time"]:
        time = summary["time"]
        console.print(
            f"Time is that of training alone, with nothing read, judged or written, both runs in turn in this process: "
            f"median of {time['pairs']} pairs.",
            highlight=False,
            style="dim",
        )
    picture = ", picture.png" if summary["hyper_steps"] else ""
    console.print(
        f"{outcome.folder.path}: config.toml, metrics.csv, tuned.toml, weights.safetensors, summary.json{picture}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _pair(values: dict[str, float]) -> list[str]:
    return [number(values["untuned"]), number(values["tuned"])]


def _score_rows(summary: dict[str, Any]) -> list[list[str]]:
    accuracy, error = (score_name(task) for task in ("classification", "regression"))
    if found := summary.get(accuracy.replace(" ", "_")):
        return [[accuracy, *(f"{100 * found[which]:.1f} %" for which in ("untuned", "tuned"))]]
    return [[error, *_pair(summary[error.replace(" ", "_")])]]


def _hyperparameter_rows(summary: dict[str, Any]) -> list[list[str]]:
    start, tuned = summary["start"], summary["tuned"]
    return [[f"{name.replace('_', ' ')}, at the end", number(start[name]), number(tuned[name])] for name in start]


def _time_rows(time: dict[str, Any]) -> list[list[str]]:
    if not time:
        return []
    return [
        ["training time", f"{time['plain_seconds']:.2f} s", f"{time['tuned_seconds']:.2f} s"],
        ["… as a multiple of plain training", "1", f"{time['ratio']:.2f}"],
    ]
