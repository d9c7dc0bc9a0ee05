"""The picture of a run: losses above, hyperparameters below, told apart without colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from nestgrad_lab.hyperparameters import HYPERPARAMETERS

Rows = Sequence[Mapping[str, Any]]

LOSSES = (
    ("outer_loss", "validation, tuned", {"color": "black", "lw": 1.8, "ls": "-"}),
    ("untuned_outer_loss", "validation, untuned", {"color": "black", "lw": 1.8, "ls": (0, (5, 2))}),
    ("inner_loss", "training, tuned", {"color": "0.55", "lw": 1.0, "ls": "-"}),
    ("untuned_inner_loss", "training, untuned", {"color": "0.55", "lw": 1.0, "ls": (0, (5, 2))}),
)


def run_picture(rows: Rows, start: Mapping[str, float], title: str) -> bytes:
    """A PNG of the rows of metrics.csv; `start` holds the hyperparameters before the first step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (over a second, when cold)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 8.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    names = [name for name in HYPERPARAMETERS if name in start]
    axes = figure.subplots(1 + len(names), 1, sharex=True, gridspec_kw={"height_ratios": [2.4, *[1] * len(names)]})
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _losses(axes[0], rows)
    for axis, name in zip(axes[1:], names, strict=True):
        _hyperparameter(axis, name, rows, start[name])
    axes[-1].set_xlabel("training step")
    for axis in axes:
        axis.grid(visible=True, color="0.9", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, rows[-1]["step"])
    figure.align_ylabels(axes)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _losses(axis: Any, rows: Rows) -> None:
    steps = [row["step"] for row in rows]
    for column, label, style in LOSSES:
        axis.plot(steps, [row[column] for row in rows], label=label, marker="o" if len(rows) == 1 else None, **style)
    axis.set_yscale("log")
    axis.set_ylabel("loss")
    axis.legend(frameon=False, ncols=2, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _hyperparameter(axis: Any, name: str, rows: Rows, start: float) -> None:
    known = HYPERPARAMETERS[name]
    values = [start, *(row[name] for row in rows)]
    axis.plot([0, *(row["step"] for row in rows)], values, color="black", lw=1.6)
    axis.axhline(start, color="0.55", lw=1.0, ls=(0, (5, 2)))
    axis.annotate(
        f"{values[-1]:.3g}",
        (1, values[-1]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        annotation_clip=False,
    )
    if known.log_axis:
        axis.set_yscale("log")
    else:
        axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel(known.title)
