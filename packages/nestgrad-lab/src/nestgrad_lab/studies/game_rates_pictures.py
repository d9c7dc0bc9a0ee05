"""Pictures of the study game-rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.game_rates_settings import Settings
from nestgrad_lab.studies.game_spectra import angle_name
from nestgrad_lab.studies.study import Arrays

LEVELS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 1.0)

LINEAR = 4.0
"""Farther out the Dirac GAN's f is too bent for a slope to be compared."""


def maps(settings: Settings, found: Mapping[str, Array], best: Mapping[str, Array], steps: Array, moduli: Array) -> Any:
    """Rates below 1 in grey, darker where lower, over step size and |β|; a row for each way of turns."""
    from matplotlib.colors import BoundaryNorm  # noqa: PLC0415  (over a second, when cold)

    count = len(settings.arguments)
    figure = new_figure(2.6 * count + 0.8, 6)
    axes = figure.subplots(len(found), count, squeeze=False, sharex=True, sharey=True)
    norm = BoundaryNorm(LEVELS, 256)
    shades = None
    for row, (turns, rates) in zip(axes, found.items(), strict=True):
        for axis, argument, each, one in zip(row, settings.arguments, rates, best[turns], strict=True):
            shades = axis.contourf(steps, moduli, each.T, LEVELS, cmap="gray", norm=norm, extend="min")
            axis.contour(steps, moduli, each.T, [1.0], colors="black", linewidths=1.6)
            if one[4] < 1.0 - 1e-6:
                axis.plot(one[1], one[2], marker="+", ms=11, mew=2, color="white")
                title = f"arg β = {angle_name(argument)}, least {one[4]:.3f}"
            else:
                title = f"arg β = {angle_name(argument)}, nowhere"
            axis.set_title(title, fontsize=9)
            axis.set_xscale("log")
        row[0].set_ylabel(f"{turns}\n|β|")
    for axis in axes[-1]:
        axis.set_xlabel("step size")
    plain(axes.flat)
    figure.colorbar(shades, ax=axes, label="rate where below 1", shrink=0.8)
    return figure


def arguments(found: Mapping[str, Arrays], others: Mapping[str, float]) -> Any:
    """The best rate at each argument of β."""
    figure = new_figure(6.5, 4.2)
    axis = figure.subplots()
    for (turns, one), style in zip(found.items(), line_styles(2), strict=True):
        axis.plot(one["angles"], one["best"], label=turns, lw=1.8, **style)
    axis.axhline(1.0, color="black", lw=0.6)
    for (name, rate), style in zip(others.items(), line_styles(4)[2:], strict=True):
        axis.axhline(rate, label=name, lw=1.2, **{**style, "color": "0.45"})
    axis.set(xlabel="arg β", ylabel="best rate", xticks=[k * math.pi / 8 for k in range(9)])
    axis.set_xticklabels([angle_name(k * math.pi / 8) for k in range(9)])
    axis.legend(frameon=False, fontsize=9)
    plain([axis])
    return figure


def region(settings: Settings, found: Mapping[str, Arrays]) -> Any:
    """β for which the game converges: of small steps in grey, with the condition's line, of larger ones as lines."""
    figure = new_figure(10.5, 3.6)
    axes = figure.subplots(1, len(found))
    for axis, (turns, one) in zip(axes, found.items(), strict=True):
        real, imaginary, rates = one["real"], one["imaginary"], one["rates"]
        below = np.where(np.isnan(rates[0]), 2.0, rates[0])
        axis.contourf(real, imaginary, below, [0.0, 1.0], colors=["0.85"])
        for step, each, style in zip(settings.disk_steps[1:], rates[1:], ("dotted", "dashdot", "dashed"), strict=False):
            axis.contour(real, imaginary, np.where(np.isnan(each), 2.0, each), [1.0], colors="0.4", linestyles=style)
            axis.plot([], [], color="0.4", ls=style, label=f"rate 1 at a step of {step:g}")
        a, top = np.linspace(0.0, 2.0, 400), 2.0 if turns == "simultaneous" else 1.0
        squares = a**2 * (top - a) / (top + a)
        inside = (squares >= 0) & (squares <= 1.0 - (1.0 - a) ** 2)
        axis.plot((1.0 - a)[inside], np.sqrt(squares[inside]), color="black", lw=1.8, label="condition for small steps")
        circle = np.linspace(0.0, math.pi, 200)
        axis.plot(np.cos(circle), np.sin(circle), color="black", lw=0.8)
        axis.set(aspect="equal", xlabel="Re β", ylabel="Im β", title=f"{turns}: grey converges at small steps")
        axis.title.set_fontsize(10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    plain(axes)
    return figure


def trajectories(one: Arrays) -> Any:
    """The Dirac GAN's players from (1, 1) in the plane."""
    rows, paths = one["rows"], one["paths"]
    count = len(rows) // 2
    figure = new_figure(2.6 * count, 5.6)
    axes = figure.subplots(2, count, squeeze=False)
    for k, (row, path) in enumerate(zip(rows, paths, strict=True)):
        axis = axes[k % 2, k // 2]
        axis.plot(path[:, 0], path[:, 1], color="black", lw=0.8)
        axis.plot(*path[0], marker="o", color="black", ms=4)
        axis.plot(0, 0, marker="+", color="black", ms=10)
        size = min(4.0, 1.05 * float(np.abs(path).max()))
        axis.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
        axis.set_title(f"{row[0]:g}, arg β = {angle_name(row[1])}\n{_turns(row)}: {row[3]:.4f}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("generator")
    for axis in axes[:, 0]:
        axis.set_ylabel("discriminator")
    plain(axes.flat)
    figure.suptitle("Dirac GAN from (1, 1): |β|, arg β, spectral radius", fontsize=10)
    return figure


def distances(one: Arrays) -> Any:
    """The distance from the equilibrium, step by step, beside the spectral radius' slope."""
    figure = new_figure(11, 4.4)
    axes = figure.subplots(1, 2, sharey=True)
    styles = line_styles(len(one["rows"]) // 2)
    for k, (row, path) in enumerate(zip(one["rows"], one["paths"], strict=True)):
        sizes, axis = np.linalg.norm(path, axis=1), axes[k % 2]
        axis.plot(sizes, lw=1.4, label=f"{row[0]:g}, {angle_name(row[1])}", **styles[k // 2])
        if sizes.max() < LINEAR:
            axis.plot(sizes[-1] * row[3] ** (np.arange(len(sizes)) - len(sizes) + 1.0), lw=0.6, color="0.5")
        axis.set_title(f"{_turns(row)} (thin: the spectral radius)", fontsize=10)
    for axis in axes:
        axis.set(yscale="log", xlabel="step", ylim=(8e-3, 30))
    axes[0].set_ylabel("distance from the equilibrium")
    axes[0].legend(title="|β|, arg β", frameon=False, fontsize=8)
    plain(axes)
    return figure


def _turns(row: Array) -> str:
    return ("simultaneous", "alternating")[int(row[2])]
