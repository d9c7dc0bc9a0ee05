"""An experiment's pictures, told apart without colour: PNG and SVG of the same figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain, repeatable, saved


@dataclass(frozen=True)
class Track:
    """What was seen of an algorithm's runs on a data set: arrays (looks, runs) by name, and the steps of the looks."""

    data: str
    algorithm: str
    steps: Array
    seen: Mapping[str, Array]
    final: Array
    every: int
    lookback: int


Tracks = Sequence[Track]


def draw(name: str, tracks: Tracks) -> dict[str, bytes]:
    """{"png": ..., "svg": ...} of the figure of this name."""
    draws: dict[str, Callable[[Any, Tracks], None]] = {
        "distribution": _distribution,
        "curves": _curves,
        "trajectories": _trajectories,
        "grid": _grid,
    }
    with repeatable():
        figure = new_figure(9, 1)
        draws[name](figure, tracks)
        return saved(figure)


def _distribution(figure: Any, tracks: Tracks) -> None:
    """For each data set: the share of runs that end below a test loss, with a bootstrap band, and boxes."""
    sets = list(dict.fromkeys(track.data for track in tracks))
    most = max(sum(track.data == data for track in tracks) for data in sets)
    figure.set_size_inches(10, (3.6 + 0.22 * most) * len(sets))
    axes = figure.subplots(len(sets), 2, squeeze=False, gridspec_kw={"width_ratios": [3, 2]})
    for row, data in zip(axes, sets, strict=True):
        own = [track for track in tracks if track.data == data]
        for track, style in zip(own, line_styles(len(own)), strict=True):
            _cumulative(row[0], track, style)
        row[0].set(xscale="log", ylim=(0, 1), xlabel="final test loss", ylabel="share of runs below", title=data)
        row[0].legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        _boxes(row[1], own)
    plain(axes.flat)


def _cumulative(axis: Any, track: Track, style: Mapping[str, Any]) -> None:
    """NaN runs never come below any loss, so the curve of an algorithm that has some ends below 1."""
    count, kept = len(track.final), np.sort(track.final[np.isfinite(track.final)])
    if not len(kept):
        axis.plot([], [], label=f"{track.algorithm} (no run finite)", **style)
        return
    grid = np.geomspace(kept[0], kept[-1] * (1 + 1e-9), 300)
    drawn = np.random.default_rng(0).choice(track.final, (400, count))
    shares = (drawn[:, :, None] <= grid).mean(axis=1)
    axis.fill_between(grid, *np.quantile(shares, [0.025, 0.975], axis=0), color=style["color"], alpha=0.1, lw=0)
    axis.step([kept[0], *kept], np.arange(len(kept) + 1) / count, where="post", label=track.algorithm, lw=1.5, **style)


def _boxes(axis: Any, tracks: Tracks) -> None:
    losses = [track.final[np.isfinite(track.final)] for track in tracks]
    ink: dict[str, Any] = {"color": "black", "lw": 1.0}
    axis.boxplot(
        losses,
        orientation="horizontal",
        widths=0.6,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "0.3"},
        medianprops={"color": "black", "lw": 2.2},
        boxprops=ink,
        whiskerprops=ink,
        capprops=ink,
    )
    labels = [
        f"{t.algorithm} ({np.isnan(t.final).sum()} NaN)" if np.isnan(t.final).any() else t.algorithm for t in tracks
    ]
    axis.set_yticks(range(1, len(tracks) + 1), labels, fontsize=8)
    axis.set(xscale="log", xlabel="final test loss")
    axis.invert_yaxis()


def _curves(figure: Any, tracks: Tracks) -> None:
    """For each data set: the median test loss over the steps, and its quartiles."""
    sets = list(dict.fromkeys(track.data for track in tracks))
    figure.set_size_inches(9, 3.8 * len(sets))
    axes = figure.subplots(len(sets), 1, squeeze=False)
    for (axis,), data in zip(axes, sets, strict=True):
        own = [track for track in tracks if track.data == data]
        for track, style in zip(own, line_styles(len(own)), strict=True):
            losses = np.where(np.isfinite(track.seen["test"]), track.seen["test"], np.inf)
            # No interpolation, which would make NaN of an infinite loss; the median is the table's.
            low, high = np.quantile(losses, [0.25, 0.75], axis=1, method="inverted_cdf")
            middle = np.median(losses, axis=1)
            axis.fill_between(track.steps, low, high, color=style["color"], alpha=0.1, lw=0)
            axis.plot(track.steps, middle, lw=1.5, label=track.algorithm, **style)
        axis.set(yscale="log", xlabel="training step", ylabel="test loss, median and quartiles", title=data)
        axis.legend(frameon=False, fontsize=8, ncols=2)
    plain(axes.flat)


def _trajectories(figure: Any, tracks: Tracks) -> None:
    """Figure 3: where tuned runs go in learning rate and weight decay, over what untuned runs end with."""
    background = [track for track in tracks if not _moves(track)]
    moving = [track for track in tracks if _moves(track)]
    figure.set_size_inches(5.2 * max(len(moving), 1), 4.6)
    axes = figure.subplots(1, max(len(moving), 1), squeeze=False)[0]
    finals = np.concatenate([track.final for track in tracks])
    low, high = np.nanquantile(np.log10(finals[np.isfinite(finals)]), [0.02, 0.98])
    shade: dict[str, Any] = {"cmap": "Greys_r", "vmin": low, "vmax": high}
    for axis, track in zip(axes, moving, strict=False):
        for other in background:
            at = [np.log10(other.seen[name][0]) for name in ("learning_rate", "weight_decay")]
            axis.scatter(*at, c=np.log10(other.final), s=60, marker="s", lw=0, alpha=0.75, **shade)
        rate, decay = (np.log10(track.seen[name]) for name in ("learning_rate", "weight_decay"))
        axis.plot(rate, decay, color="black", lw=0.7, alpha=0.6)
        axis.scatter(rate[0], decay[0], facecolors="white", edgecolors="black", s=22, lw=0.8, zorder=3)
        ends = axis.scatter(
            rate[-1],
            decay[-1],
            c=np.log10(track.final),
            edgecolors="black",
            marker="D",
            s=34,
            lw=0.8,
            zorder=4,
            **shade,
        )
        figure.colorbar(ends, ax=axis, label="log10 of the final test loss")
        axis.set(xlabel="log10 learning rate", ylabel="log10 weight decay", title=f"{track.algorithm}, {track.data}")
    plain(axes)


def _moves(track: Track) -> bool:
    decay = track.seen["weight_decay"]
    return not np.array_equal(decay[0], decay[-1], equal_nan=True)


def _grid(figure: Any, tracks: Tracks) -> None:
    """Figures 4 and 6: the median final test loss for each interval and look-back; NaN runs count as infinite."""
    bases = list(dict.fromkeys(track.algorithm.split(", T=")[0] for track in tracks if ", T=" in track.algorithm))
    figure.set_size_inches(5.2 * len(bases), 4.6)
    axes = figure.subplots(1, len(bases), squeeze=False)[0]
    for axis, base in zip(axes, bases, strict=True):
        own = [track for track in tracks if track.algorithm.startswith(f"{base}, T=")]
        every, lookback = (sorted({getattr(track, name) for track in own}) for name in ("every", "lookback"))
        medians = np.full((len(lookback), len(every)), np.nan)
        for track in own:
            losses = np.where(np.isnan(track.final), np.inf, track.final)
            medians[lookback.index(track.lookback), every.index(track.every)] = np.median(losses)
        with np.errstate(all="ignore"):
            shown = np.log10(medians)
        image = axis.imshow(np.ma.masked_invalid(shown), cmap="Greys", origin="lower", aspect="auto")
        middle = np.nanmean(shown[np.isfinite(shown)]) if np.isfinite(shown).any() else 0.0
        for (i, j), value in np.ndenumerate(medians):
            if not np.isnan(value):
                ink = "white" if np.isfinite(shown[i, j]) and shown[i, j] > middle else "black"
                axis.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_xticks(range(len(every)), every)
        axis.set_yticks(range(len(lookback)), lookback)
        axis.set(xlabel="T, steps between hyper steps", ylabel="i, look-back", title=f"{base}: median final test loss")
        figure.colorbar(image, ax=axis, label="log10")
