"""Figure 3.7 and table 3.3 of Lorraine's thesis: a network that augments images, whose weights are hyperparameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.augmentation_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.averages import mean_and_error, standard_error
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
Each training image x becomes x̄ = x + U(x, noise), U being a U-Net of depth 1: two 3 × 3 convolutions of 2² filters
and a 1 × 1 convolution, no coarser level, with one channel of normal noise beside the colours. Its weights are the
hyperparameters; validation images are not augmented. A prediction is the mean of that for x and of those for 5 x̄.
Methods, at each 9th training step: none (x̄ = x), identity (1 term), 3-term Neumann, and 3 steps unrolled.
regularised: to the outer loss r (mean |x̄ - x| - mean deviation of x̄ over samples) is added, which U enters directly.
Departures: U has leaky ReLUs of slope 0.1, since with ReLUs Adam at these rates left U's units dead; the classifier's
batch normalisation, where it has any, is by the batch at hand; its stem is ImageNet's.
small: 1,000 training and 1,000 validation images of CIFAR-10's first 4,000, three convolutions, Adam for U.
full: ResNet-18, 45,000 and 5,000 images, 200 epochs, SGD for both, rates times 0.2 at epochs 60, 120 and 160, and for
U at 40, 100 and 140."""
METHODS = {
    "none": "no augmentation",
    "identity": "identity, 1 term",
    "neumann": "Neumann, 3 terms",
    "unrolled": "unrolled, 3 steps",
}


REGULARISED = {"regulariser": 0.5}
PARTS = ("valid", "test")


def pieces(settings: Settings) -> list[Piece]:
    """Each method's runs, then the direct term."""
    runs = [
        Piece(f"{method}, run {run + 1}", {"method": method, "run": run})
        for run in range(settings.runs)
        for method in METHODS
    ]
    return [*runs, Piece("direct term")]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Losses and accuracies of one run, images before and after; or the hypergradient's parts at one point."""
    from nestgrad_lab.studies import torch_augmentation as torch_side  # noqa: PLC0415  (a framework)

    if piece.name == "direct term":
        return torch_side.Augmenting(settings, context, run=0).looked_at_directly()
    return torch_side.Augmenting(settings, context, run=piece.arguments["run"]).learned(piece.arguments["method"])


def gathered(settings: Settings, results: Results, method: str, name: str) -> Array:
    """What each of a method's runs has found under this name, (runs, ...)."""
    return np.stack([results[f"{method}, run {run + 1}"][name] for run in range(settings.runs)])


def tables(settings: Settings, results: Results) -> list[Table]:
    """Accuracies and losses, differences between methods on the same rows and weights, and the direct term."""
    by_method = [_outcomes(settings, results), _augmenters(settings, results), _differences(settings, results)]
    return [*by_method, _direct(results)]


def _outcomes(settings: Settings, results: Results) -> Table:
    columns = ["method", *(f"{part} {what}" for what in ("accuracy %", "loss") for part in PARTS)]
    rows = _rows(settings, results, [(f"{part}_{what}", what) for what in ("accuracy", "loss") for part in PARTS])
    note = (
        f"Means over {settings.runs} runs ± their standard errors, of the mean of 1 plain and {settings.predictions} "
        "augmented predictions."
    )
    return Table("Learned augmentation (table 3.3)", columns, rows, [note])


def _augmenters(settings: Settings, results: Results) -> Table:
    columns = ["method", "test accuracy %", "training accuracy %", "moved", "deviation"]
    names = [("test_plain_accuracy", "accuracy"), ("train_accuracy", "accuracy"), ("moved", ""), ("spread", "")]
    note = "Accuracies of plain images alone. moved: mean |x̄ - x|; deviation: of a pixel of x̄ over draws of noise."
    return Table("Plain images, and how far U moves them", columns, _rows(settings, results, names), [note])


def _rows(settings: Settings, results: Results, names: list[tuple[str, str]]) -> list[list[Any]]:
    """A row for each method; accuracies in per cent."""
    return [
        [
            title,
            *(
                mean_and_error((100 if what == "accuracy" else 1) * gathered(settings, results, method, name))
                for name, what in names
            ),
        ]
        for method, title in METHODS.items()
    ]


def _differences(settings: Settings, results: Results) -> Table:
    """In pairs: both methods of a pair have the same rows, first weights and batches in a run."""
    pairs = [("identity", "none"), ("neumann", "none"), ("neumann", "identity"), ("neumann", "unrolled")]
    rows: list[list[Any]] = []
    for one, other in pairs:
        apart = {
            name: gathered(settings, results, one, name) - gathered(settings, results, other, name)
            for name in ("test_accuracy", "test_loss", "valid_loss")
        }
        row = [100 * apart["test_accuracy"], apart["test_loss"], apart["valid_loss"]]
        rows.append([f"{one} - {other}", *map(mean_and_error, row)])
    return Table("Differences in the same run", ["methods", "test accuracy %", "test loss", "valid loss"], rows)


def _direct(results: Results) -> Table:
    found = {name: float(value) for name, value in results["direct term"].items()}
    rows = [
        ["|direct|", found["direct"]],
        ["|indirect|", found["indirect"]],
        ["cosine", found["cosine"]],
        ["error", found["error"]],
        ["differences", found["differences"]],
    ]
    note = (
        "At weights and U trained for a while by 3-term Neumann with the regulariser. cosine: of the total and of the "
        "indirect term alone; error: |total - indirect| / |total|, what leaving the direct term out costs; "
        "differences: the outer loss's slope along the direct term, by central differences, over its norm: 1 where it "
        "is right. Without the regulariser it is exactly 0."
    )
    return Table("The direct term of a regularised outer loss", ["what", "value"], rows, [note])


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Accuracies and losses by method; images before and after."""
    return {"methods": _outcome_points(settings, results), "images": _images(results)}


def _outcome_points(settings: Settings, results: Results) -> Any:
    """Means and standard errors, and each run as a small mark."""
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2)
    at = np.arange(len(METHODS))
    for axis, what, scale in zip(axes, ("accuracy", "loss"), (100.0, 1.0), strict=True):
        for k, (part, shade) in enumerate(zip(PARTS, ("0.6", "black"), strict=True)):
            for place, method in zip(at + 0.3 * (k - 0.5), METHODS, strict=True):
                values = scale * gathered(settings, results, method, f"{part}_{what}")
                error = standard_error(values) if len(values) > 1 else 0.0
                own = np.full(len(values), place + 0.08)
                axis.plot(own, values, "_", color=shade, ms=6, mew=0.8)
                title = {"valid": "validation", "test": "test"}[part] if method == "none" else None
                axis.errorbar(place, values.mean(), error, fmt="os"[k], color=shade, ms=6, capsize=4, label=title)
        axis.set_xticks(at, [title.replace(", ", ",\n") for title in METHODS.values()], fontsize=8)
        axis.set_ylabel("accuracy, %" if what == "accuracy" else "cross entropy")
        axis.set_xlim(-0.5, len(METHODS) - 0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    plain(axes)
    return figure


def _images(results: Results) -> Any:
    """A row of images, and below it what each method makes of them, twice, and how far that moves a pixel."""
    first = results["neumann, run 1"]
    shown: list[tuple[str, Array]] = [("x", first["images"])]
    for method in list(METHODS)[1:]:
        made = results[f"{method}, run 1"]["augmented"]
        shown += [(f"x̄, {method}", made[0]), ("again", made[1])]
    count = len(first["images"])
    figure = new_figure(1.0 * count + 1.4, 1.0 * len(shown))
    axes = figure.subplots(len(shown), count)
    low, high = first["images"].min((0, 1, 2)), first["images"].max((0, 1, 2))
    for row, (title, images) in zip(axes, shown, strict=True):
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        for axis, image in zip(row, images, strict=True):
            bright = np.clip((image - low) / (high - low), 0.0, 1.0)
            axis.imshow(bright[..., 0] if bright.shape[-1] == 1 else bright, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    return figure


STUDY = Study(
    name="augmentation",
    title="Does a learned augmentation network help? (figure 3.7, table 3.3)",
    note=NOTE,
    settings={
        "plain": (SMALL, FULL),
        "regularised": (dataclasses.replace(SMALL, **REGULARISED), dataclasses.replace(FULL, **REGULARISED)),
    },
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
