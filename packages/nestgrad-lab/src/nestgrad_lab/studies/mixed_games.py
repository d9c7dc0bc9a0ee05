"""Games between cooperation and opposition: which argument of β is best where (chapter 4 of Lorraine's thesis)."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.game_spectra import (
    angle_name,
    as_complex,
    as_parts,
    draw_log_polar,
    exponents_agree,
    length,
    played_rate,
    spectra,
)
from nestgrad_lab.studies.mixed_games_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
min over x, max over y of Σ γ d x y + ½ (1 - γ) d x² - ½ (1 - γ) d y², whose game Jacobian has the eigenvalues
d ((1 - γ) ± iγ). d: seven from 1/4 to 4, evenly. γ: 0 for the first, γ_max for the last, for the others drawn from
[0, γ_max]; the same draws times γ_max all along. γ_max = 0 is cooperation, at 1 some of the game is opposition alone.
Players move at once. Best rates by search (nestgrad_reference.spectra) from the spectrum that game_jacobian measures.
Extragradient's is its square root, as a step costs two gradients. recommended: what recommend_argument puts first.
full: finer sweeps. Which of d is given which γ, and the ½, are our own."""
METHODS = ("extragradient", "optimistic")
INSIDE = 0.03
ONE = 1.0 - 1e-6
"""Rates from here on are none below 1."""


def pieces(settings: Settings) -> list[Piece]:
    """One for each γ_max; what is played needs the best settings there."""
    values = sorted({*map(float, np.linspace(0.0, 1.0, settings.sweep)), *settings.played})
    return [
        *(Piece(f"γ {value:.4g}", {"most": value}) for value in values),
        *(Piece(f"played, γ {value:.4g}", {"most": value}, (f"γ {value:.4g}",)) for value in settings.played),
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Best settings by search at one γ_max, or the rates of what is played with them."""
    most = piece.arguments["most"]
    return _played(settings, most, context) if piece.needs else _searched(settings, most, context)


def game(settings: Settings, most: float, seed: int) -> tuple[Array, Array]:
    """d and γ."""
    shares = np.random.default_rng(seed).uniform(size=settings.size)
    shares[0], shares[-1] = 0.0, 1.0
    return np.linspace(settings.curvatures[0], settings.curvatures[1], settings.size), most * shares


def _searched(settings: Settings, most: float, context: Context) -> Arrays:
    """rows: step, |β|, arg β, rate for each argument and for any; others: step and rate for METHODS."""
    import scipy  # noqa: PLC0415  (slow to import)

    from nestgrad_lab.studies import torch_mixed_games as torch_side  # noqa: PLC0415  (a framework)

    module = spectra()
    curvatures, opposed = game(settings, most, context.seed)
    one = torch_side.mixed(curvatures, opposed, context)
    values = np.linalg.eigvals(torch_side.jacobian(one, settings.size, context))
    rows: list[list[float]] = []
    for k, angle in enumerate(settings.arguments):
        best = module.best_momentum(values, argument=angle)
        rows.append([best.step_size, abs(best.momentum), angle, best.rate])
        context.tick(0.5 * k / len(settings.arguments))
    first = module.recommend_argument(values, arguments=settings.arguments)[0]
    free = module.best_momentum(values)
    rows.append([free.step_size, abs(free.momentum), free.argument, free.rate])
    largest = float(np.abs(values).max())
    others: list[list[float]] = []
    for rate in (module.extragradient_rate, module.optimistic_rate):
        steps = np.geomspace(0.01, 3.0, 60) / largest
        near = steps[np.argmin([rate(values, step_size=step) for step in steps])]
        bounds = {"bounds": (near / 1.2, near * 1.2), "method": "bounded", "options": {"xatol": 1e-10}}
        step = float(scipy.optimize.minimize_scalar(lambda x, rate=rate: rate(values, step_size=x), **bounds).x)
        others.append([step, rate(values, step_size=step)])
    return {
        "eigenvalues": as_parts(values),
        "rows": np.array(rows),
        "others": np.array(others),
        "recommended": np.array([first.argument, first.rate]),
    }


def _played(settings: Settings, most: float, context: Context) -> Arrays:
    """The rates of trajectories with the best settings at each argument and of METHODS, NaN where none is below 1."""
    from nestgrad_lab.studies import torch_game_rates as players  # noqa: PLC0415  (a framework)
    from nestgrad_lab.studies import torch_mixed_games as torch_side  # noqa: PLC0415  (a framework)

    before = context.results[f"γ {most:.4g}"]
    one = torch_side.mixed(*game(settings, most, context.seed), context)
    start = np.random.default_rng(context.seed + 1).normal(size=(2, settings.size))
    ways = [(row[3], players.momentum(*map(float, row[:3])), None) for row in before["rows"][:-1]]
    ahead, optimistic = before["others"]
    ways += [(ahead[1], *players.extragradient(float(ahead[0])))]
    ways += [(optimistic[1], players.optimistic(float(optimistic[0])), None)]
    rates = []
    for k, (rate, rule, direction) in enumerate(ways):
        if rate < ONE:
            path = players.trajectory(
                one, rule, start, length(float(rate), settings.steps), context, direction=direction
            )
            rates.append(played_rate(path))
        else:
            rates.append(math.nan)
        context.tick((k + 1) / len(ways))
    return {"rates": np.array(rates), "expected": np.array([rate for rate, _, _ in ways])}


def tables(settings: Settings, results: Results) -> list[Table]:
    """Best rates by γ_max, what is recommended, and what was played."""
    swept = {name: one for name, one in results.items() if not name.startswith("played")}
    rows: list[list[Cell]] = []
    beside: list[list[Cell]] = []
    for name, one in swept.items():
        most, least, first = name[2:], one["rows"][-1], one["recommended"]
        ahead, optimistic = map(float, one["others"][:, 1])
        rows.append([most, *(_rate(float(rate)) for rate in one["rows"][:-1, 3])])
        told = "-" if first[1] >= ONE else angle_name(float(first[0]))
        beside.append([most, told, _rate(float(least[3])), f"{least[2]:.4f}", _rate(ahead**0.5), _rate(optimistic)])
    titles = [angle_name(angle) for angle in settings.arguments]
    text = (
        "recommended: of the arguments above. any: the best β of any argument. Extragradient a gradient: the square "
        "root of its rate."
    )
    columns = ["γ max", "recommended", "any", "its arg β", "extragradient", "optimistic"]
    played: list[list[Cell]] = []
    for name, one in results.items():
        if not name.startswith("played"):
            continue
        for title, rate, found in zip((*titles, *METHODS), one["expected"], one["rates"], strict=True):
            if math.isfinite(found):
                agrees = exponents_agree(float(found), float(rate), 0.01)
                played.append([name.split("γ ")[1], title, f"{rate:.6f}", f"{found:.6f}", agrees])
    last = "played: of ln ‖ω_t‖ as in game-rates; agrees: their logarithms are within 1 %. Extragradient's is a step's."
    return [
        Table("Best rates, players at once, by arg β", ["γ max", *titles], rows),
        Table("Beside them", columns, beside, [text]),
        Table("Played with the best settings", ["γ max", "arg β", "rate", "played", "agrees"], played, [last]),
    ]


def _rate(rate: float) -> str:
    return f"{rate:.4f}" if rate < ONE else "-"


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Best rates over γ_max; spectra of the game and of the update operator in log-polar axes."""
    swept = {float(name[2:]): one for name, one in results.items() if not name.startswith("played")}
    return {"rates": _rates(settings, swept), "spectra": _spectra(settings, swept)}


def _rates(settings: Settings, swept: dict[float, Arrays]) -> Any:
    figure = new_figure(7.5, 4.6)
    axis = figure.subplots()
    at = list(swept)
    lines = [
        (f"arg β = {angle_name(angle)}", [one["rows"][k, 3] for one in swept.values()])
        for k, angle in enumerate(settings.arguments)
    ]
    lines.append(("any arg β", [one["rows"][-1, 3] for one in swept.values()]))
    lines.append(("extragradient, a gradient", [one["others"][0, 1] ** 0.5 for one in swept.values()]))
    lines.append(("optimistic", [one["others"][1, 1] for one in swept.values()]))
    for (label, rates), style in zip(lines, line_styles(len(lines)), strict=True):
        axis.plot(at, rates, label=label, lw=1.6, marker="." if label.startswith("any") else None, **style)
    axis.set(xlabel="γ max: 0 cooperation, 1 opposition", ylabel="best rate", ylim=(None, 1.005))
    axis.legend(frameon=False, fontsize=8)
    plain([axis])
    return figure


def _spectra(settings: Settings, swept: dict[float, Arrays]) -> Any:
    """Above, of the game Jacobian; below, of the update operator at the best β and the best with argument 0."""
    chosen = [value for value in settings.played if value in swept]
    figure = new_figure(3.6 * len(chosen), 6.4)
    axes = figure.subplots(2, len(chosen), squeeze=False, sharey="row", sharex=True)
    for column, value in zip(axes.T, chosen, strict=True):
        one = swept[value]
        values = as_complex(one["eigenvalues"])
        draw_log_polar(column[0], values, title=f"γ max = {value:g}: game Jacobian")
        told: list[str] = []
        for k, style in ((0, {"marker": "x", "color": "0.55", "ms": 5}), (-1, {"marker": "."})):
            step, modulus, argument, rate = map(float, one["rows"][k])
            roots = spectra().momentum_roots(values, step_size=step, momentum=cmath.rect(modulus, argument))
            # Far inside the circle nothing is told of the rate, and rounding moves what should be 0.
            draw_log_polar(column[1], roots[np.abs(roots) > INSIDE], **style)
            told.append(_rate(rate))
        column[1].axhline(0.0, color="black", lw=0.8)
        column[1].set_title(f"update operator, rate {told[0]} (x), {told[1]} (dots)", fontsize=9)
        column[1].set_xlabel("argument")
    figure.suptitle("x: the best β of argument 0; dots: of any argument", fontsize=9)
    axes[0, 0].set_ylabel("ln |λ|")
    axes[1, 0].set_ylabel("ln |z|")
    plain(axes.flat)
    return figure


STUDY = Study(
    name="mixed-games",
    title="Which argument of β is best between cooperation and opposition? (chapter 4)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
