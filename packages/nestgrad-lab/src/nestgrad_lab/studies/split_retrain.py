"""Figure 3.9 of Lorraine's thesis: how many rows should validate, and what it brings to train again on all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.split_retrain_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
A linear classifier, cross-entropy + Σ e^λ w²: one λ for all weights, or one for each. Of so many rows, drawn by chance,
a share validates: a hyper step after every step of training on the others (all rows at once, so that a step is
an epoch), by one-step differentiation of the Adam step. Then a new model is trained from zero weights on all rows with
the λ found, for as many epochs. Share 0: λ stays where it starts. Hypergradients that are not finite are skipped.
small: 250 epochs and 4 draws of rows, as reported of the released code. full: 1,000 epochs and 20 draws. The thesis has
CIFAR-10 too."""


def pieces(settings: Settings) -> list[Piece]:
    """One for each number of rows and kind of hyperparameters."""
    return [
        Piece(f"{size} rows, {kind}", {"size": size, "kind": kind})
        for size in settings.sizes
        for kind in settings.kinds
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """before, after, validation: accuracies (shares, runs), without and with retraining; log_decay: median λ."""
    from nestgrad_lab.studies import torch_split_retrain as torch_side  # noqa: PLC0415  (a framework)

    return torch_side.run(settings, context, **piece.arguments)


def gains(one: Arrays) -> Array:
    """What retraining adds to the test accuracy, (shares, runs)."""
    return one["after"] - one["before"]


def tables(settings: Settings, results: Results) -> list[Table]:
    """Accuracies for each share; whether retraining helps more as the share grows."""
    rows, told = [], []
    for name, one in results.items():
        gain = gains(one)
        for k, share in enumerate(settings.shares):
            shown = [one[kind][k] for kind in ("validation", "before", "after")] + [gain[k]]
            rows.append([name, float(share), *(float(each.mean()) for each in shown), _error(gain[k])])
        mean = gain.mean(1)
        best = [settings.shares[int(one[kind].mean(1).argmax())] for kind in ("before", "after")]
        rising = int((np.diff(mean) > 0).sum())
        told.append([name, f"{rising} of {len(mean) - 1}", _rank(mean), *map(float, best)])
    notes = [f"Means of {settings.runs} runs; ±: standard error of the gain. Accuracies on test rows but where said."]
    columns = ["rows, hyperparameters", "share", "validation accuracy", "before", "after", "gain", "±"]
    return [
        Table("Accuracy before and after retraining on all rows", columns, rows, notes),
        Table(
            "Does retraining help more as the share grows?",
            ["rows, hyperparameters", "steps up", "rank correlation", "best share before", "best share after"],
            told,
            ["steps up: to the next share, at which the mean gain rises. rank correlation: of share and mean gain."],
        ),
    ]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Test accuracy against the share that validates."""
    figure = new_figure(3.6 * len(settings.sizes), 4)
    axes = figure.subplots(1, len(settings.sizes), squeeze=False)[0]
    for axis, size in zip(axes, settings.sizes, strict=True):
        for kind, colour in zip(settings.kinds, ("black", "0.55"), strict=False):
            one = results[f"{size} rows, {kind}"]
            for stage, style in zip(("after", "before"), line_styles(2), strict=True):
                seen = one[stage]
                error = seen.std(1, ddof=1) / seen.shape[1] ** 0.5 if seen.shape[1] > 1 else None
                label = f"{kind}, {'retrained on all rows' if stage == 'after' else 'as tuned'}"
                look = {**style, "color": colour}
                axis.errorbar(settings.shares, seen.mean(1), error, lw=1.5, capsize=2, label=label, **look)
        axis.set(xlabel="share of the rows that validates", title=f"{size} rows")
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    plain(axes)
    return {"accuracy": figure}


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _rank(mean: Array) -> float:
    """Spearman's correlation of the values with their order; none of them occurs twice."""
    return float(np.corrcoef(np.arange(len(mean)), mean.argsort().argsort())[0, 1])


STUDY = Study(
    name="split-retrain",
    title="How many rows should validate, and does it pay to retrain on all? (figure 3.9)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
