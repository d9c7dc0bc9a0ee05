"""Pictures of the study mixture-gan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.game_spectra import angle_name, draw_log_polar
from nestgrad_lab.studies.mixture_gan_settings import Settings
from nestgrad_lab.studies.study import Arrays


def samples(settings: Settings, picks: Sequence[tuple[float, float, float]], judged: Arrays, middles: Array) -> Any:
    """At the end: a row for each of the first two judging seeds, a column for each argument's best setting."""
    shown = min(2, settings.judging_seeds)
    figure = new_figure(2.5 * len(picks), 2.7 * shown)
    axes = figure.subplots(shown, len(picks), squeeze=False, sharex=True, sharey=True)
    size = settings.radius + 6.0 * settings.deviation
    for seed, row in enumerate(axes):
        for k, axis in enumerate(row):
            points = judged["samples"][k, seed]
            axis.scatter(*middles.T, s=260, facecolors="none", edgecolors="0.6", linewidths=0.8)
            axis.plot(*points.T, ls="", marker=".", ms=1.6, color="black", alpha=0.5)
            axis.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
            step, modulus, argument = picks[k]
            covered = judged["modes"][-1, k, seed]
            told = f"arg β = {angle_name(argument)}, |β| = {modulus:g}, step {step:g}\n" if seed == 0 else ""
            axis.set_title(f"{told}{covered:.0f} of {settings.modes} modes", fontsize=9)
    plain(axes.flat)
    return figure


def modes(settings: Settings, judged: Array, grid: Sequence[Array]) -> Any:
    """Modes covered at each argument: every setting of the grid, and the chosen one on each judging seed."""
    figure = new_figure(6.5, 4.2)
    axis = figure.subplots()
    names = [angle_name(one) for one in settings.arguments]
    places = np.arange(len(names))
    for k, values in enumerate(grid):
        axis.plot(
            np.full(len(values), k - 0.12),
            values,
            ls="",
            marker="_",
            color="0.6",
            ms=9,
            label="each setting of the grid" if k == 0 else None,
        )
    for k, values in enumerate(judged):
        spread = np.linspace(0.06, 0.2, len(values))
        axis.plot(
            k + spread,
            values,
            ls="",
            marker="o",
            mfc="none",
            color="black",
            ms=5,
            label="the chosen one, each judging seed" if k == 0 else None,
        )
    axis.plot(places, judged.mean(1), color="black", marker="D", ms=5, lw=1.2, label="their mean")
    axis.set(xticks=places, xlabel="arg β", ylabel="modes covered", ylim=(-0.3, settings.modes + 0.3))
    axis.set_xticklabels(names)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    plain([axis])
    return figure


def progress(settings: Settings, found: Array) -> Any:
    """Modes covered on the way, the mean over judging seeds."""
    figure = new_figure(6.5, 4.0)
    axis = figure.subplots()
    steps = settings.steps // len(found) * (1 + np.arange(len(found)))
    for k, style in enumerate(line_styles(len(settings.arguments))):
        label = f"arg β = {angle_name(settings.arguments[k])}"
        axis.plot(steps, found[:, k].mean(1), label=label, lw=1.6, marker=".", **style)
    axis.set(xlabel="step", ylabel="modes covered, mean of seeds", ylim=(-0.3, settings.modes + 0.3))
    axis.legend(frameon=False, fontsize=8)
    plain([axis])
    return figure


def spectrum(values: Mapping[str, Array]) -> Any:
    """Eigenvalues of the game Jacobian at the end of a run, ln |λ| against arg λ."""
    figure = new_figure(5 * len(values), 4.2)
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (kind, found) in zip(axes, values.items(), strict=True):
        sizes = np.abs(found)
        draw_log_polar(axis, found[sizes > 1e-6 * sizes.max()], title=f"after {kind} momentum", ms=3)
        axis.set_xlabel("arg λ")
    axes[0].set_ylabel("ln |λ|")
    plain(axes)
    return figure
