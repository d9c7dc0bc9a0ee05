"""Figures 2.2 and 2.4 of Lorraine's thesis: a learned response is least where retrained weights are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.response_curve_settings import (
    FULL_RELEASED,
    FULL_TEXT,
    RELEASED,
    TEXT,
    Settings,
    searched,
)
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
A linear classifier of 28 × 28 pixels, 7,850 weights, and the logarithm λ of one weight decay for all of them.
global: an MLPResponse of 50 units trained on λ ~ p(λ), then λ alone moved through it (algorithm 2). local: a
LinearResponse and λ trained together (algorithm 3). retrained: weights trained for each λ of the grid.
text (Lorraine and Duvenaud 2018): squared error to one-hot targets, e^λ ‖w‖², p(λ) = N(0, 1.5), p(λ|λ̂) = N(λ̂, 1e-5),
1.5 and 1e-5 taken for variances, Adam. The text does not say how many rows train; here 100, whose best λ lies inside of
p(λ), nor where λ̂ starts: here on either side of 0. A wider p(λ|λ̂) is run beside the text's.
released: minus the mean log-density of the targets, normal of deviation 0.1, e^λ ‖w‖ (no square), 10 rows, λ ~ N(1, 3²)
clipped at 4, 10 samples; local: SGD for the response, no noise, Adam for λ, whose step counter never moves: its steps
have 0.316 of their length in the long run, and so has the rate here. Its retrained curve ends after 1,000 steps.
small: larger rates and fewer steps than the text's 1e-4. full: 1e-4, and 100,000 steps."""


def pieces(settings: Settings) -> list[Piece]:
    """One for each curve."""
    local = [
        Piece(f"local, variance {variance:g}, from {start:g}", {"variance": variance, "start": start})
        for variance in settings.local_variances
        for start in settings.local_starts
    ]
    return [Piece("retrained"), Piece("global"), *local]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Validation losses at `at`; λ on the way and at the end."""
    from nestgrad_lab.studies import torch_response_curve as torch_side  # noqa: PLC0415  (a framework)

    curves = torch_side.Curves(settings, context)
    if piece.name == "retrained":
        return curves.retrained()
    return curves.learned_locally(**piece.arguments) if piece.arguments else curves.learned_globally()


def minimisers(settings: Settings, results: Results) -> dict[str, float]:
    """Where each curve is least, and where the λ of algorithms 2 and 3 end."""
    found = {
        "retrained, on the grid": _least(results["retrained"]),
        "global response, of 1000 points": _least(results["global"]),
        "global response, λ moved through it": float(results["global"]["path"][-1]),
        **{f"{name}, λ at the end": float(one["path"][-1]) for name, one in _local(results).items()},
    }
    if "exact" in results["retrained"]:
        fine = results["retrained"]
        found = {"closed form, of 1000 points": float(searched(settings)[fine["exact"].argmin()]), **found}
    return found


def tables(settings: Settings, results: Results) -> list[Table]:
    """The minimisers beside the retrained one, and how exact the retrained weights are."""
    first, last, points = settings.grid
    step = (last - first) / (points - 1)
    known = minimisers(settings, results)
    true = known["retrained, on the grid"]
    rows: list[Sequence[Any]] = [
        [name, value, value - true, abs(value - true) <= step * (1 + 1e-9)] for name, value in known.items()
    ]
    notes = [f"The grid's step is {step:.4g}. p(λ) has a standard deviation of {settings.variance**0.5:.3g}."]
    if "distance" in results["retrained"]:
        worst = results["retrained"]["distance"].max()
        notes.append(f"Retrained weights differ from the closed form by {worst:.2g} of its norm, at most.")
    return [Table("Minimisers of the validation loss", ["curve", "λ", "difference", "within a step"], rows, notes)]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Validation loss against λ; λ over the steps of algorithms 2 and 3."""
    return {"curves": _curves(settings, results), "paths": _paths(settings, results)}


def _curves(settings: Settings, results: Results) -> Any:
    figure = new_figure(8, 5)
    axis = figure.subplots()
    true, wide = results["retrained"], results["global"]
    if "exact" in true:
        axis.plot(searched(settings), true["exact"], color="0.75", lw=4, label="closed form")
    axis.plot(true["at"], true["loss"], "o", color="black", ms=5, label="weights retrained for each λ")
    axis.plot(wide["at"], wide["loss"], color="black", lw=1.5, label=f"global response, {settings.hidden} ReLU units")
    low, high = true["loss"].min(), true["loss"].max()
    floor = low - 0.15 * (high - low)
    for (name, one), style in zip(_local(results).items(), line_styles(8)[4:], strict=False):
        end = float(one["path"][-1])
        if settings.grid[0] <= end <= settings.grid[1]:
            axis.plot(one["at"], one["loss"], lw=1.8, label=name, **style)
            axis.plot([end], [floor], "D", mfc="none", mec="black", ms=8, clip_on=False)
    axis.plot([_least(true)], [floor], "o", mfc="none", mec="black", ms=8, clip_on=False)
    axis.plot([_least(wide)], [floor], "s", mfc="none", mec="black", ms=8, clip_on=False)
    axis.text(settings.grid[0], floor, "least: ○ retrained, □ global, ◇ local λ̂", fontsize=8, va="center")
    axis.set_ylim(floor - 0.1 * (high - low), high + 0.5 * (high - low))
    axis.set(xlabel="λ, logarithm of the weight decay", ylabel="validation loss")
    axis.legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
    plain([axis])
    return figure


def _paths(settings: Settings, results: Results) -> Any:
    figure = new_figure(9, 3.8)
    axes = figure.subplots(1, 2, sharey=True)
    local = _local(results)
    axes[0].plot(results["global"]["path_step"], results["global"]["path"], color="black", lw=1.5)
    for (name, one), style in zip(local.items(), line_styles(len(local)), strict=True):
        axes[1].plot(one["path_step"], one["path"], lw=1.5, label=name, **style)
    for axis, title in zip(axes, ("algorithm 2, global response", "algorithm 3, local response"), strict=True):
        axis.axhline(_least(results["retrained"]), color="0.6", lw=3, zorder=0)
        axis.set(xlabel="hyper step", title=title)
    axes[0].set_ylabel("λ̂ (grey: least retrained)")
    axes[1].legend(frameon=False, fontsize=8)
    plain(axes)
    return figure


def _local(results: Results) -> dict[str, Arrays]:
    return {name: one for name, one in results.items() if name.startswith("local")}


def _least(curve: Arrays) -> float:
    return float(curve["at"][curve["loss"].argmin()])


STUDY = Study(
    name="response-curve",
    title="Is a learned response least where retrained weights are? (figures 2.2 and 2.4)",
    note=NOTE,
    settings={"text": (TEXT, FULL_TEXT), "released": (RELEASED, FULL_RELEASED)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
