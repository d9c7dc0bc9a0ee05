"""Figure 3.5 of Lorraine's thesis: as many hyperparameters as weights fit a small validation set by heart."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.overfit_validation_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
Few training and as many validation rows, drawn by chance from the public training rows; one weight decay for each
weight, by its logarithm: cross-entropy + Σ e^λ_i w_i². identity: one-step differentiation of the Adam step that moves
the weights; neumann: a few terms of the series; fixed: λ stays where it starts. Weights carry on, a hyper step after
every few steps, RMSprop for λ; hypergradients that are not finite are skipped.
mlp: one hidden layer of ReLU. convolutional: two layers of 5 × 5 filters with pooling, then a linear one.
small: Adam at 1e-3 and RMSprop at 0.05 for 600 hyper steps. full: reported of the released code: 1e-4 and 0.01,
until 99.9 % of both sets are right; here 20,000 hyper steps. AlexNet, ResNets and CIFAR-10 are not here."""


PARTS = ("train", "validation", "test")


def pieces(settings: Settings) -> list[Piece]:
    """One for each model and method."""
    return [
        Piece(f"{model}, {method}", {"model": model, "method": method})
        for model in settings.models
        for method in settings.methods
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """step (looks,); loss and accuracy of the three PARTS (looks, runs, 3); final λ of all runs, and their number."""
    from nestgrad_lab.studies import torch_overfit_validation as torch_side  # noqa: PLC0415  (a framework)

    return torch_side.run(settings, context, **piece.arguments)


def tables(settings: Settings, results: Results) -> list[Table]:
    """Where losses and accuracies end, means over runs."""
    rows = []
    for name, one in results.items():
        loss, share = (one[kind].mean(1) for kind in ("loss", "accuracy"))
        rows.append(
            [
                name,
                int(one["hyperparameters"]),
                *(float(share[-1, part]) for part in range(3)),
                float(loss[-1, 1]),
                float(loss[:, 1].min()),
                float(loss[-1, 2]),
                float(loss[:, 2].min()),
                float(np.median(one["log_decay"])),
            ]
        )
    columns = [
        "model, method", "hyperparameters", *(f"{part} accuracy" for part in PARTS),
        "validation loss", "least", "test loss", "least", "median λ",
    ]  # fmt: skip
    note = (
        f"{settings.rows} rows train, {settings.rows} validate, {settings.test_rows} test; means of {settings.runs} "
        f"runs, of {settings.hyper_steps} hyper steps. least: of the mean loss, on the way."
    )
    return [Table("What one decay for each weight ends with", columns, rows, [note])]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Validation and test losses over hyper steps."""
    figure = new_figure(3.6 * len(settings.models), 6)
    axes = figure.subplots(2, len(settings.models), sharex=True, sharey="row", squeeze=False)
    for column, model in zip(axes.T, settings.models, strict=True):
        for method, style in zip(settings.methods, line_styles(len(settings.methods)), strict=True):
            one = results[f"{model}, {method}"]
            for axis, part in zip(column, (1, 2), strict=True):
                seen = one["loss"][:, :, part]
                axis.fill_between(one["step"], seen.min(1), seen.max(1), color=style["color"], alpha=0.12, lw=0)
                axis.plot(one["step"], seen.mean(1), lw=1.6, label=method, **style)
        decays = int(results[f"{model}, {settings.methods[0]}"]["hyperparameters"])
        column[0].set(title=f"{model}, {decays:,} decays", yscale="log")
        column[1].set(xlabel="hyper step")
    axes[0, 0].set_ylabel("validation loss")
    axes[1, 0].set_ylabel("test loss")
    axes[0, 0].legend(frameon=False, fontsize=8)
    plain(axes.flat)
    return {"losses": figure}


STUDY = Study(
    name="overfit-validation",
    title="Can one decay for each weight fit the validation set by heart? (figure 3.5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
