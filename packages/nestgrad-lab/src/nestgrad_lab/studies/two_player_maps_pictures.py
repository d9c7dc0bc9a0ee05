"""Pictures of the study two-player-maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.study import Arrays, Results
from nestgrad_lab.studies.two_player_maps_settings import Settings


def maps(settings: Settings, results: Results, chances: Array) -> Any:
    """The largest exponent over both probabilities in grey; starts, points and branches of the search over it."""
    count = len(settings.games)
    figure = new_figure(4.9 * count, 4.8)
    axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for axis, name, ahead in zip(axes, settings.games, settings.look_aheads, strict=True):
        exponents, one = results[f"map, {name}"]["exponents"], results[f"search, {name}"]
        shades = axis.pcolormesh(chances, chances, exponents.T, cmap="Greys", shading="nearest")
        if exponents.min() < 0.0 < exponents.max():
            axis.contour(chances, chances, exponents.T, [0.0], colors="black", linewidths=0.8, linestyles="dashed")
        figure.colorbar(shades, ax=axis, shrink=0.75)
        starts, points, paths = (_chances(one[key]) for key in ("starts", "points", "paths"))
        for path in paths:
            axis.plot(path[:, 0], path[:, 1], color="white", lw=2.6)
            axis.plot(path[:, 0], path[:, 1], color="black", lw=1.1)
            axis.plot(*path[-1], marker="s", ms=6, mfc="white", color="black", clip_on=False, zorder=5)
        axis.plot(*starts.T, ls="", marker="o", ms=6, mfc="white", color="black", label="start")
        axis.plot(*points.T, ls="", marker="*", ms=11, mfc="white", color="black", label="after the ascent")
        axis.plot([], [], ls="", marker="s", ms=6, mfc="white", color="black", label="end of a branch")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability of one")
        axis.set_title(f"{name}, {'LOLA' if ahead else 'gradients'}", fontsize=10)
    axes[0].set_ylabel("probability of two")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _chances(logits: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-logits))


def toy(settings: Settings, one: Arrays) -> Any:
    """The toy's loss as lines of equal height, the tree of Ridge Rider, and where gradient descent ends."""
    from nestgrad_lab.studies.torch_two_player_maps import TURN  # noqa: PLC0415  (a framework)

    axis_values = np.linspace(-1.6, 1.6, 161)
    x, y = np.meshgrid(axis_values, axis_values)
    along = np.stack([math.cos(TURN) * x + math.sin(TURN) * y, -math.sin(TURN) * x + math.cos(TURN) * y], -1)
    loss = (0.25 * along**4 - 0.5 * np.array(settings.toy_curvatures) * along**2).sum(-1)
    figure = new_figure(5.4, 5.4)
    axis = figure.subplots()
    axis.contour(x, y, loss, np.linspace(loss.min(), 0.6, 18), colors="0.75", linewidths=0.8, linestyles="solid")
    for a, b, c, d in one["edges"]:
        axis.plot([a, c], [b, d], color="black", lw=1.3)
    nodes = np.unique(np.round(np.concatenate([one["edges"][:, :2], one["edges"][:, 2:]]), 3), axis=0)
    axis.plot(*nodes.T, ls="", marker="o", ms=5, color="black", label="maximum")
    axis.plot(*one["ends"].T, ls="", marker="*", ms=15, mfc="white", color="black", label="minima of Ridge Rider")
    axis.plot(*one["plain"].T, ls="", marker="x", ms=7, color="black", label="ends of gradient descent")
    axis.set(aspect="equal", xlabel="first weight", ylabel="second weight", title="Ridge Rider's tree")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    plain([axis])
    return figure
