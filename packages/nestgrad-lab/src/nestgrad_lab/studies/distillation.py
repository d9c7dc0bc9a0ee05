"""Figure 3.6 of Lorraine's thesis: training images whose every pixel is a hyperparameter."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.distillation_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
One image for each class, all pixels 0 at the start and free to take any value, labels fixed. Inner problem: a linear
classifier's cross-entropy on these images plus decay/2 ‖w‖², without which its minimum would be at infinity. Outer
loss: cross-entropy on the validation rows, drawn by chance from the public training rows. Every accuracy here is that
of a new model, trained from zero weights by Adam on the images alone, on all test images.
neumann, cg, identity: algorithm 4, weights carried on, a hyper step after every few steps of gradient descent.
unrolled: differentiation through a whole run from zero weights, the same number of hyper steps.
small: 250 hyper steps. full: 10,000, as reported of the released code, which takes 100 validation rows and 5 inner
steps a hyper step; CIFAR-10 and CIFAR-100 are not here."""
ENOUGH = 0.85
"""The test accuracy that ten images are to reach."""
REAL, ROWS = "real images", "the validation rows"


def pieces(settings: Settings) -> list[Piece]:
    """One for each method and number of validation rows."""
    own = [
        Piece(f"{method}, {rows} rows", {"method": method, "rows": rows})
        for rows in settings.valid_rows
        for method in settings.methods
    ]
    return [Piece(REAL), Piece(ROWS, {"rows": max(settings.valid_rows)}), *own]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """accuracy (runs,) and images (runs, classes, pixels) at the end; accuracy and loss at each step, (looks, runs)."""
    from nestgrad_lab.studies import torch_distillation as torch_side  # noqa: PLC0415  (a framework)

    bench = torch_side.Bench(settings, context)
    if piece.name == REAL:
        return bench.real()
    if piece.name == ROWS:
        return bench.of_rows(**piece.arguments)
    return bench.distilled(**piece.arguments)


def tables(settings: Settings, results: Results) -> list[Table]:
    """The test accuracy of new models, over runs."""
    shown = []
    for name, one in results.items():
        found = one["accuracy"]
        row = [name, len(found), found.mean(), found.min(), found.max(), bool(found.min() >= ENOUGH)]
        shown.append([row[0], row[1], *map(float, row[2:5]), row[5]])
    notes = [
        f"{REAL}: one of each class, drawn by chance.",
        f"{ROWS}: {max(settings.valid_rows)} of them train the model themselves, with the same decay.",
        f"Distilled images after {settings.hyper_steps} hyper steps.",
    ]
    columns = ["trained on", "runs", "mean accuracy", "lowest", "highest", f"all at least {ENOUGH}"]
    return [Table("Test accuracy of a new linear model", columns, shown, notes)]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """The images of each method's first run; accuracy over hyper steps."""
    return {"images": _images(results), "accuracy": _accuracy(settings, results)}


def _images(results: Results) -> Any:
    drawn = {name: one["images"][0] for name, one in results.items() if "images" in one}
    classes = next(iter(drawn.values())).shape[0]
    figure = new_figure(0.95 * classes + 2.2, 1.05 * len(drawn))
    axes = figure.subplots(len(drawn), classes, squeeze=False)
    for row, (name, images) in zip(axes, drawn.items(), strict=True):
        side = round(images.shape[1] ** 0.5)
        most = float(np.quantile(np.abs(images), 0.995)) or 1.0
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.reshape(side, side), cmap="gray", vmin=-most, vmax=most)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle("mid grey is 0; black and white are a size that 0.5 % of the pixels of a row exceed", fontsize=8)
    return figure


def _accuracy(settings: Settings, results: Results) -> Any:
    figure = new_figure(10, 4.2)
    axes = figure.subplots(1, len(settings.valid_rows), sharey=True, squeeze=False)[0]
    for axis, rows in zip(axes, settings.valid_rows, strict=True):
        for method, style in zip(settings.methods, line_styles(len(settings.methods)), strict=True):
            one = results[f"{method}, {rows} rows"]
            _band(axis, one["step"], one["seen_accuracy"], method, style)
        axis.axhspan(*_range(results[REAL]["accuracy"]), color="0.9", lw=0, label=f"{REAL}, lowest to highest")
        axis.axhline(float(results[ROWS]["accuracy"].mean()), color="0.6", lw=3, zorder=0, label=ROWS)
        axis.set(xlabel="hyper step", title=f"{rows} validation rows", ylim=(0, 1))
    axes[0].set_ylabel("test accuracy of a new model")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    plain(axes)
    return figure


def _band(axis: Any, steps: Array, seen: Array, label: str, style: dict[str, Any]) -> None:
    """The mean over runs, and their range."""
    axis.fill_between(steps, seen.min(1), seen.max(1), color=style["color"], alpha=0.12, lw=0)
    axis.plot(steps, seen.mean(1), lw=1.6, label=label, **style)


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


STUDY = Study(
    name="distillation",
    title="Do ten learned images train a classifier of digits? (figure 3.6)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
