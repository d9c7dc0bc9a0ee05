"""Bilinear games and the Dirac GAN: rates by eigenvalues, found again by playing (chapter 4 of Lorraine's thesis)."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import game_rates_pictures as pictures
from nestgrad_lab.studies.game_rates_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.game_spectra import (
    angle_name,
    as_complex,
    as_parts,
    exponents_agree,
    least_rate,
    length,
    played_rate,
    rate_map,
    spectra,
)
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
bilinear: min over x, max over y of Σ σ x y, whose game Jacobian has the eigenvalues ±iσ. The rate is the error's factor
a step: of momentum with a complex coefficient β the largest root of its characteristic polynomial. best: step size and
β of the least rate, by search (nestgrad_reference.spectra), at each argument of β and at any. played: the rate that a
trajectory shows in float64, from ln ‖ω_t‖ under Hann windows, the first third left out (our own definition).
dirac: f(ψθ), f(t) = -ln(1 + e^-t), whose spectrum is measured by game_jacobian at the equilibrium and played from so
near to it that the game is linear. region: β for which steps small enough converge.
full: four singular values and finer grids. The thesis' figures 4.3 to 4.5 are followed in spirit, not in settings."""
TURNS = ("simultaneous", "alternating")
ANY = -1.0
"""In place of an argument: any."""
NEVER = 1.0 - 1e-6
"""A best rate from here on is none: the search then makes steps as small as it can."""
OTHERS = ("extragradient", "optimistic", "gradients")


def pieces(settings: Settings) -> list[Piece]:
    """The search and what is played with its settings for each way of turns; the Dirac GAN; maps and regions."""
    return [
        *(Piece(f"best, {turns}", {"turns": turns}) for turns in (*TURNS, "others")),
        Piece("dirac"),
        *(Piece(f"map, {turns}", {"turns": turns}) for turns in TURNS),
        *(Piece(f"region, {turns}", {"turns": turns}) for turns in TURNS),
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Numbers of one piece; see the functions."""
    kind, turns = piece.name.split(", ")[0], piece.arguments.get("turns", "")
    if kind == "best":
        return _others(settings, context) if turns == "others" else _best(settings, context, turns)
    if kind == "dirac":
        return _dirac(settings, context)
    return _map(settings, turns, context) if kind == "map" else _region(settings, turns, context)


def spectrum(settings: Settings, turns: str) -> list[complex]:
    """What `rate` asks for: eigenvalues ±iσ, or σ for players in turn."""
    values = [complex(size) for size in settings.singular_values]
    return values if turns == "alternating" else [sign * 1j * one for one in values for sign in (1, -1)]


def _best(settings: Settings, context: Context, turns: str) -> Arrays:
    """For any argument and for each: as asked, step, |β|, arg β, rate, played rate; NaN where no rate is below 1."""
    from nestgrad_lab.studies import torch_game_rates as torch_side  # noqa: PLC0415  (a framework)

    game = torch_side.bilinear(settings.singular_values, context)
    rows: list[list[float]] = []
    for k, asked in enumerate((ANY, *settings.arguments)):
        found = spectra().best_momentum(
            spectrum(settings, turns), argument=None if asked == ANY else asked, turns=turns
        )
        row = [asked, found.step_size, abs(found.momentum), found.argument, found.rate, math.nan]
        if found.rate < NEVER:
            rule = torch_side.momentum(found.step_size, row[2], row[3])
            start = _start(settings, context)
            path = torch_side.trajectory(game, rule, start, length(row[4], settings.steps), context, turns=turns)
            row[5] = played_rate(path)
        rows.append(row)
        context.tick((k + 1) / (1 + len(settings.arguments)))
    return {"rows": np.array(rows)}


def _others(settings: Settings, context: Context) -> Arrays:
    """Extragradient and optimistic gradients: step, rate, played rate; of gradients at once at a step of 0.1 / σ."""
    import scipy  # noqa: PLC0415  (slow to import)

    from nestgrad_lab.studies import torch_game_rates as torch_side  # noqa: PLC0415  (a framework)

    values, module = spectrum(settings, "simultaneous"), spectra()
    game, start = torch_side.bilinear(settings.singular_values, context), _start(settings, context)
    largest, rows = max(settings.singular_values), []
    for name, rate in (("extragradient", module.extragradient_rate), ("optimistic", module.optimistic_rate)):
        bounds = {"bounds": (1e-3 / largest, 2.0 / largest), "method": "bounded", "options": {"xatol": 1e-10}}
        step = float(scipy.optimize.minimize_scalar(lambda x, rate=rate: rate(values, step_size=x), **bounds).x)
        rule, direction = torch_side.extragradient(step) if name == "extragradient" else (None, None)
        rule = rule or torch_side.optimistic(step)
        best = rate(values, step_size=step)
        path = torch_side.trajectory(game, rule, start, length(best, settings.steps), context, direction=direction)
        rows.append([step, best, played_rate(path)])
    step = 0.1 / largest
    best = module.rate(values, step_size=step, momentum=0.0)
    rule = torch_side.momentum(step, 0.0, 0.0)
    path = torch_side.trajectory(game, rule, start, length(best, settings.steps), context)
    return {"rows": np.array([*rows, [step, best, played_rate(path)]])}


def _start(settings: Settings, context: Context) -> Array:
    return np.random.default_rng(context.seed).normal(size=(2, len(settings.singular_values)))


def _dirac(settings: Settings, context: Context) -> Arrays:
    """For each setting and way of turns: |β|, arg β, turns, radius, played rate; paths from (1, 1)."""
    from nestgrad_lab.studies import torch_game_rates as torch_side  # noqa: PLC0415  (a framework)

    game, step = torch_side.dirac(), settings.dirac_step
    eigenvalues = torch_side.measured_spectrum(game, 1, context)
    sizes = {"simultaneous": eigenvalues, "alternating": np.abs(np.imag(eigenvalues[:1]))}
    rows: list[list[float]] = []
    paths: list[Array] = []
    both = list(zip(settings.dirac_moduli, settings.dirac_arguments, strict=True))
    for modulus, argument in both:
        for which, turns in enumerate(TURNS):
            beta = cmath.rect(modulus, argument)
            radius = spectra().rate(sizes[turns], step_size=step, momentum=beta, turns=turns)
            steps = length(radius, settings.dirac_steps) // 2
            # Growing ones end, and decaying ones begin, at 1e-6, where the game is linear to 1e-12.
            start = np.full((2, 1), 1e-6 * min(1.0, math.exp(-steps * math.log(radius))))
            rule = torch_side.momentum(step, modulus, argument)
            far = torch_side.trajectory(game, rule, start, steps, context, turns=turns)
            rows.append([modulus, argument, which, radius, played_rate(far)])
            near = torch_side.trajectory(game, rule, np.ones((2, 1)), settings.shown, context, turns=turns)
            paths.append(near[..., 0])
            context.tick(len(rows) / (2 * len(both)))
    return {"eigenvalues": as_parts(eigenvalues), "rows": np.array(rows), "paths": np.stack(paths)}


def _map(settings: Settings, turns: str, context: Context) -> Arrays:
    """Rates over step sizes and moduli, (arguments, step sizes, moduli), and the best rate against the argument."""
    steps, moduli = axes_of(settings)
    values, angles = spectrum(settings, turns), np.linspace(0.0, math.pi, settings.sweep)
    maps: list[Array] = []
    for k, argument in enumerate(settings.arguments):
        maps.append(rate_map(values, list(steps), [cmath.rect(r, argument) for r in moduli], turns))
        context.tick(0.5 * k / len(settings.arguments))
    best = []
    for k, angle in enumerate(angles):
        best.append(least_rate(values, float(angle), turns))
        context.tick(0.5 + 0.5 * k / len(angles))
    return {"maps": np.stack(maps), "angles": angles, "best": np.array(best)}


def axes_of(settings: Settings) -> tuple[Array, Array]:
    """Step sizes and moduli of the map."""
    high = 4.0 / max(settings.singular_values)
    return np.geomspace(0.01 * high, high, settings.grid[0]), np.linspace(0.01, 0.98, settings.grid[1])


def small_steps_converge(beta: Any, turns: str) -> Any:
    """Whether steps small enough converge on a bilinear game.

    With a = 1 - Re β: where (Im β)² > a² (2 - a) / (2 + a) for players at once, a² (1 - a) / (1 + a) in turn.
    """
    a, top = 1.0 - np.real(beta), 2.0 if turns == "simultaneous" else 1.0
    return np.imag(beta) ** 2 > a**2 * (top - a) / (top + a)


def _region(settings: Settings, turns: str, context: Context) -> Arrays:
    """Rates over the upper half of β's disk at each step size; how many of random β the condition is right on."""
    axis = np.linspace(-1.0, 1.0, settings.disk)
    real, imaginary = np.meshgrid(axis, axis[axis >= 0])
    betas, values = real + 1j * imaginary, spectrum(settings, turns)
    inside = np.abs(betas) < 1.0
    found = np.full((len(settings.disk_steps), *betas.shape), np.nan)
    for k, step in enumerate(settings.disk_steps):
        found[k][inside] = rate_map(values, [step], list(betas[inside]), turns)[0]
        context.tick(k / (1 + len(settings.disk_steps)))
    draw = np.random.default_rng(context.seed)
    random = np.sqrt(draw.uniform(size=settings.tried)) * np.exp(2j * math.pi * draw.uniform(size=settings.tried))
    rates = rate_map(values, [settings.disk_steps[0]], list(random), turns)[0]
    right = (rates < 1.0) == small_steps_converge(random, turns)
    return {"rates": found, "real": real, "imaginary": imaginary, "right": np.array(right.sum())}


def tables(settings: Settings, results: Results) -> list[Table]:
    """Best rates, the Dirac GAN's radii, the small-step condition."""
    return [_best_table(settings, results), _dirac_table(settings, results["dirac"]), _region_table(settings, results)]


def _best_table(settings: Settings, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for turns in TURNS:
        for asked, step, modulus, argument, rate, played in results[f"best, {turns}"]["rows"]:
            named = f"any: {argument:.4f}" if asked == ANY else angle_name(float(asked))
            if rate < NEVER:
                rows.append([turns, named, f"{step:.4f}", f"{modulus:.4f}", *_rates(rate, played)])
            else:
                rows.append([turns, named, "-", "-", "none < 1", "-", "-"])
    for name, (step, rate, played) in zip(OTHERS, results["best, others"]["rows"], strict=True):
        rows.append([name, "-", f"{step:.4f}", "-", *_rates(rate, played)])
    text = (
        "agrees: ln of the played rate is within 1 % of ln of the rate. Extragradient's step costs two gradients. "
        "Gradients at once have no best step, as their rate is above 1 at any: here it is 0.1/σ."
    )
    sizes = ", ".join(f"{one:g}" for one in settings.singular_values)
    columns = ["turns", "arg β", "step", "|β|", "rate", "played", "agrees"]
    return Table(f"Best rates on a bilinear game, σ = {sizes}", columns, rows, [text])


def _rates(rate: float, played: float) -> list[Cell]:
    return [f"{rate:.6f}", f"{played:.6f}", exponents_agree(float(played), float(rate), 0.01)]


def _dirac_table(settings: Settings, one: Arrays) -> Table:
    rows: list[list[Cell]] = [
        [
            TURNS[int(which)],
            float(modulus),
            angle_name(float(argument)),
            f"{radius:.6f}",
            f"{played:.6f}",
            exponents_agree(float(played), float(radius), 0.01),
        ]
        for modulus, argument, which, radius, played in one["rows"]
    ]
    values = ", ".join(f"{value.imag:+.4g}i" for value in as_complex(one["eigenvalues"]))
    note = f"Eigenvalues of the measured game Jacobian: {values}. Step size {settings.dirac_step:g}."
    columns = ["turns", "|β|", "arg β", "spectral radius", "played", "agrees"]
    return Table("Dirac GAN", columns, rows, [note])


def _region_table(settings: Settings, results: Results) -> Table:
    rows: list[list[Cell]] = [
        [turns, f"{int(results[f'region, {turns}']['right'])} of {settings.tried}"] for turns in TURNS
    ]
    return Table(
        f"The small-step condition agrees with the rate at a step of {settings.disk_steps[0]:g}, of random β",
        ["turns", "agrees"],
        rows,
    )


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Maps of the rate, the best rate by argument, the region of small steps, trajectories."""
    steps, moduli = axes_of(settings)
    rows = zip(OTHERS[:2], results["best, others"]["rows"], strict=False)
    others = {name: float(row[1]) for name, row in rows}
    rates = {turns: results[f"map, {turns}"]["maps"] for turns in TURNS}
    best = {turns: results[f"best, {turns}"]["rows"][1:] for turns in TURNS}
    return {
        "maps": pictures.maps(settings, rates, best, steps, moduli),
        "arguments": pictures.arguments({turns: results[f"map, {turns}"] for turns in TURNS}, others),
        "region": pictures.region(settings, {turns: results[f"region, {turns}"] for turns in TURNS}),
        "trajectories": pictures.trajectories(results["dirac"]),
        "distances": pictures.distances(results["dirac"]),
    }


STUDY = Study(
    name="game-rates",
    title="How fast does complex momentum go on a bilinear game and a Dirac GAN? (figures 4.3 to 4.5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
