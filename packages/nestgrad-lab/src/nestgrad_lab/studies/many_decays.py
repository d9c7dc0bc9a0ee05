"""Figure 2.5 of Lorraine's thesis: a weight decay for each weight, by a learned response and by unrolling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.many_decays_settings import FULL, PARTS, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
Networks of 1, 2 and 3 linear layers (7,850 weights for one), squared error to one-hot targets, Σ e^λᵢ wᵢ² with a λ for
each weight. hyper-training: a FactorisedResponse of 10 units and λ trained together (algorithm 3). unrolled: whole runs
from the same weights, λ moved by reverse mode through all of a run. fixed: λ as they are at first. Curves over seconds
of the processor, which differ from run to run; all else is repeatable.
small: 1,000 rows train, 1,000 validate, 20 hidden units; λ and unrolled runs at rates above the text's 1e-4.
full: 10,000 rows of each kind, batches of 100, 50 hidden units, Adam of 1e-4. p(λ|λ̂) = N(λ̂, 1e-5), as in the text."""


METHODS = ("hyper-training", "unrolled", "fixed")
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def pieces(settings: Settings) -> list[Piece]:
    """Each method on each network."""
    return [
        Piece(f"{method}, {layers} layer{'s' * (layers > 1)}", {"method": method, "layers": layers})
        for layers in settings.layers
        for method in METHODS
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """At each look: seconds, hyper steps, and the losses and the error of the three parts."""
    from nestgrad_lab.studies import torch_many_decays as torch_side  # noqa: PLC0415  (a framework)

    return torch_side.tune(settings, context, **piece.arguments)


def tables(settings: Settings, results: Results) -> list[Table]:
    """First, least and last losses of each method on each network."""
    rows: list[Sequence[Any]] = []
    for name, one in results.items():
        valid = one["valid"]
        rows.append(
            [
                name,
                float(one["seconds"][-1]),
                float(valid.min()),
                _seconds_to(one, 0.9),
                *(float(one[part][-1]) for part in PARTS),
                float(one["test_error"][-1]),
            ]
        )
    columns = [
        "method",
        "s",
        "least",
        "9/10",
        *PARTS,
        "error",
    ]
    note = (
        "Losses without decay, on all rows: the least of validation, and the last of each part; error: the last on "
        "test. s: processor seconds; 9/10: those to this share of the way of validation from the first look, which is "
        "after the first run or step, to its least."
    )
    return [Table("A decay for each weight", columns, rows, [note])]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Losses over time, of one layer by both methods, and of each network."""
    return {"losses": _losses(results), "layers": _layers(settings, results)}


def _losses(results: Results) -> Any:
    figure = new_figure(10, 3.8)
    first = list(results.items())[: len(METHODS)]
    axes = figure.subplots(1, len(PARTS), sharey=True)
    titles = ("training", "validation", "test")
    for axis, part, title in zip(axes, PARTS, titles, strict=True):
        for (name, one), dash in zip(first, DASHES, strict=True):
            axis.plot(one["seconds"], one[part], color="black", ls=dash, lw=1.5, label=name)
        axis.set(xlabel="processor seconds", title=f"{title} loss")
    axes[0].set_ylim(*_range([one[part] for _, one in first for part in PARTS]))
    axes[0].legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


def _layers(settings: Settings, results: Results) -> Any:
    figure = new_figure(4.2 * len(settings.layers), 4.2)
    axes = figure.subplots(1, len(settings.layers), sharey=True, squeeze=False)[0]
    for axis, layers in zip(axes, settings.layers, strict=True):
        own = [(name, one) for name, one in results.items() if int(one["layers"]) == layers]
        for (name, one), dash in zip(own, DASHES, strict=True):
            method = name.split(",")[0]
            axis.plot(one["seconds"], one["valid"], color="black", ls=dash, lw=1.6, label=f"validation, {method}")
            axis.plot(one["seconds"], one["test"], color="0.6", ls=dash, lw=1.6, label=f"test, {method}")
        title = f"{layers} layer{'s' * (layers > 1)}, {int(own[0][1]['hyperparameters']):,} decays"
        axis.set(xlabel="processor seconds", title=title)
    axes[0].set_ylabel("loss")
    axes[0].set_ylim(*_range([one[part] for one in results.values() for part in PARTS[1:]]))
    axes[0].legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


def _range(curves: Sequence[Array]) -> tuple[float, float]:
    """What most of the looks are in: the first of some are far above."""
    low, high = min(curve.min() for curve in curves), max(np.quantile(curve, 0.9) for curve in curves)
    return float(low - 0.08 * (high - low)), float(high + 0.25 * (high - low))


def _seconds_to(one: Arrays, share: float) -> float:
    """When validation has come this share of the way to its least."""
    valid = one["valid"]
    reached = valid <= valid[0] - share * (valid[0] - valid.min())
    return float(one["seconds"][reached.argmax()])


STUDY = Study(
    name="many-decays",
    title="A weight decay for each weight: by a learned response, or by unrolling? (figure 2.5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
