"""A GAN of eight Gaussians on a ring: whether complex momentum covers more modes than real (chapter 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import mixture_gan_pictures as pictures
from nestgrad_lab.studies.game_spectra import angle_name, as_complex, as_parts, spectra
from nestgrad_lab.studies.mixture_gan_settings import FULL, SMALL, Settings, centres
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
Generator and discriminator are small tanh networks, float32, players in turn, the generator's loss the one that does
not saturate. A mode is covered when at least `covered` of all samples lie within three deviations of it; good samples
lie so near to any; likelihood: the mean log density of 2,000 real rows under normals of the data's deviation around the
samples. All three are means of the last looks, and definitions of our own. The same grid of step sizes and |β| for
every argument of β, at equal steps. For each argument the setting of most modes, then likelihood, is chosen on some
seeds, and judged on others; real is the better of arguments 0 and π so chosen, complex the best of the rest.
spectrum: of the game Jacobian at the end of the first judged run of these two, by game_jacobian on a batch of its own.
full: larger networks and batches, more steps, a finer grid."""
JUDGED = "judged"
REAL = 2000
"""Real rows that likelihoods are of."""
KEPT = 1e-2
"""Of the eigenvalues, those of this share of the largest or more are asked which argument they recommend."""


def pieces(settings: Settings) -> list[Piece]:
    """The grid, an argument each; what is chosen, on other seeds; two spectra."""
    grid = [Piece(f"grid, {angle_name(one)}", {"argument": one}) for one in settings.arguments]
    names = tuple(piece.name for piece in grid)
    spectra_of = [Piece(f"spectrum, {kind}", {"kind": kind}, (*names, JUDGED)) for kind in ("real", "complex")]
    return [*grid, Piece(JUDGED, needs=names), *spectra_of]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Scores of the grid at one argument; scores and samples of what is chosen; a spectrum."""
    from nestgrad_lab.studies import torch_mixture_gan as torch_side  # noqa: PLC0415  (a framework)

    if piece.name == JUDGED:
        seeds = range(settings.choosing_seeds, settings.choosing_seeds + settings.judging_seeds)
        gan = torch_side.Gan(settings, context, chosen(settings, context.results), seeds)
        found = gan.run(context.tick)["samples"]
        kept = {f"{player}.{name}": x.cpu().numpy() for player, one in gan.players.items() for name, x in one.items()}
        return {**scores(settings, found), "samples": found[-1], **kept}
    if piece.arguments.get("kind"):
        return _spectrum(settings, piece.arguments["kind"], context)
    gan = torch_side.Gan(
        settings, context, cells(settings, piece.arguments["argument"]), range(settings.choosing_seeds)
    )
    return scores(settings, gan.run(context.tick)["samples"])


def cells(settings: Settings, argument: float) -> list[tuple[float, float, float]]:
    """The grid at one argument: (step size, |β|, arg β)."""
    return [(step, modulus, argument) for step in settings.step_sizes for modulus in settings.moduli]


def scores(settings: Settings, samples: Array) -> dict[str, Array]:
    """modes, good and likelihood, each (looks, choices, seeds), of samples (looks, choices, seeds, samples, 2)."""
    middles, deviation = centres(settings), settings.deviation
    draw = np.random.default_rng(0)
    real = middles[draw.integers(settings.modes, size=REAL)] + deviation * draw.normal(size=(REAL, 2))
    near = np.linalg.norm(samples[..., None, :] - middles, axis=-1) <= 3.0 * deviation
    flat = samples.reshape(-1, *samples.shape[-2:])
    likelihood = [log_density(real, one, deviation) for one in flat]
    return {
        "modes": (near.mean(-2) >= settings.covered).sum(-1).astype(np.float64),
        "good": near.any(-1).mean(-1),
        "likelihood": np.array(likelihood).reshape(samples.shape[:-2]),
    }


def log_density(rows: Array, samples: Array, deviation: float) -> float:
    """The mean over rows of ln of the mean over samples of N(row | sample, deviation² I); -inf where one is NaN."""
    if not np.isfinite(samples).all():
        return -math.inf
    apart = ((rows[:, None, :] - samples[None].astype(np.float64)) ** 2).sum(-1) / (-2.0 * deviation**2)
    top = apart.max(1)
    logs = top + np.log(np.exp(apart - top[:, None]).mean(1))
    return float(logs.mean()) - math.log(2.0 * math.pi * deviation**2)


def last(settings: Settings, values: Array) -> Array:
    """The mean of the last looks, (choices, seeds)."""
    return values[-settings.looks :].mean(0)


def best_cell(settings: Settings, one: Arrays) -> int:
    """The place in `cells` of most modes, then of the highest likelihood, by the means over the choosing seeds."""
    modes, likelihood = (last(settings, one[name]).mean(1) for name in ("modes", "likelihood"))
    return max(range(len(modes)), key=lambda k: (modes[k], likelihood[k]))


def chosen(settings: Settings, results: Results) -> list[tuple[float, float, float]]:
    """The best of the grid for each argument."""
    found = [results[f"grid, {angle_name(one)}"] for one in settings.arguments]
    return [
        cells(settings, argument)[best_cell(settings, one)]
        for argument, one in zip(settings.arguments, found, strict=True)
    ]


def is_real(argument: float) -> bool:
    """Whether β is, at this argument."""
    return abs(math.sin(argument)) < 1e-9  # noqa: PLR2004  (rounding)


def best_of(settings: Settings, results: Results, kind: str) -> int:
    """The place in arguments of the best real or complex one, by the choosing seeds."""
    places = [k for k, one in enumerate(settings.arguments) if is_real(one) == (kind == "real")]

    def rank(k: int) -> tuple[float, float]:
        one = results[f"grid, {angle_name(settings.arguments[k])}"]
        at = best_cell(settings, one)
        return tuple(float(last(settings, one[name]).mean(1)[at]) for name in ("modes", "likelihood"))  # pyright: ignore[reportReturnType]

    return max(places, key=rank)


def _spectrum(settings: Settings, kind: str, context: Context) -> Arrays:
    """Eigenvalues at the end of a run, and the best rate at each argument for those that are kept."""
    from nestgrad_lab.studies import torch_mixture_gan as torch_side  # noqa: PLC0415  (a framework)

    which, judged = best_of(settings, context.results, kind), context.results[JUDGED]
    gan = torch_side.Gan(settings, context, chosen(settings, context.results)[which : which + 1], [0])
    gan.put({name: judged[name][which * settings.judging_seeds] for name in judged if "." in name})
    values = gan.spectrum()
    context.tick(0.5)
    kept = leading(values)
    rates = [spectra().best_momentum(kept, argument=one).rate for one in settings.arguments] if len(kept) else []
    return {"eigenvalues": as_parts(values), "rates": np.array(rates), "kept": np.array(len(kept))}


def leading(values: Array) -> Array:
    """The eigenvalues that a recommendation is asked for: of KEPT of the largest or more, real parts not negative.

    Our own choice: along one with a negative real part and little rotation no momentum converges, so that all arguments
    would be told to be equally bad.
    """
    sizes = np.abs(values)
    return values[(sizes >= KEPT * sizes.max()) & (np.real(values) >= 0.0)]


def tables(settings: Settings, results: Results) -> list[Table]:
    """What was chosen and how it was judged; the verdict; spectra."""
    judged, picks = results[JUDGED], chosen(settings, results)
    modes, good, likelihood = (last(settings, judged[name]) for name in ("modes", "good", "likelihood"))
    rows: list[list[Cell]] = []
    for k, (step, modulus, argument) in enumerate(picks):
        grid = results[f"grid, {angle_name(argument)}"]
        first = float(last(settings, grid["modes"]).mean(1)[best_cell(settings, grid)])
        each = " ".join(f"{one:.1f}" for one in modes[k])
        means = [f"{one[k].mean():.3g}" for one in (modes, good, likelihood)]
        rows.append([angle_name(argument), step, modulus, f"{first:.2f}", each, *means])
    columns = ["arg β", "step", "|β|", "chosen by", "modes, each judging seed", "mean", "good", "likelihood"]
    note = (
        f"Of {len(cells(settings, 0.0))} settings an argument on {settings.choosing_seeds} seeds (chosen by: their "
        f"modes), judged on {settings.judging_seeds} others after {settings.steps} steps, of {settings.modes} modes."
    )
    return [
        Table("The best setting at each argument", columns, rows, [note]),
        _verdict(settings, results),
        _spectrum_table(settings, results),
    ]


def _verdict(settings: Settings, results: Results) -> Table:
    places = {kind: best_of(settings, results, kind) for kind in ("real", "complex")}
    modes = last(settings, results[JUDGED]["modes"])
    means = {kind: float(modes[k].mean()) for kind, k in places.items()}
    covers = means["complex"] >= means["real"]
    row: list[Cell] = [
        *(f"{angle_name(settings.arguments[k])}: {means[kind]:.3g}" for kind, k in places.items()),
        covers,
    ]
    columns = ["real momentum", "complex momentum", "complex covers at least as many"]
    return Table("Modes covered, of the best real and the best complex momentum", columns, [row])


def _spectrum_table(settings: Settings, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for kind in ("real", "complex"):
        one = results[f"spectrum, {kind}"]
        values, rates = as_complex(one["eigenvalues"]), one["rates"]
        best = angle_name(settings.arguments[int(rates.argmin())]) if len(rates) and rates.min() < 1.0 else "-"
        rows.append(
            [
                kind,
                len(values),
                f"{np.abs(values).max():.3g}",
                f"{float((np.real(values) < 0).mean()):.2f}",
                f"{float((np.abs(np.imag(values)) > np.abs(np.real(values))).mean()):.2f}",
                int(one["kept"]),
                best,
                f"{rates.min():.6f}" if len(rates) else "-",
            ]
        )
    columns = ["run", "count", "largest", "Re < 0", "rotating", "kept", "recommended", "its rate"]
    text = (
        f"Re < 0 and rotating (|Im| > |Re|): shares. kept: of {KEPT:g} of the largest or more and Re ≥ 0, which the "
        "recommendation is for: the argument of the best rate, players at once."
    )
    return Table("The game Jacobian at the end", columns, rows, [text])


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Samples, modes by argument, spectra."""
    judged, picks = results[JUDGED], chosen(settings, results)
    values = {kind: as_complex(results[f"spectrum, {kind}"]["eigenvalues"]) for kind in ("real", "complex")}
    grid = [last(settings, results[f"grid, {angle_name(one)}"]["modes"]).mean(1) for one in settings.arguments]
    return {
        "samples": pictures.samples(settings, picks, judged, centres(settings)),
        "modes": pictures.modes(settings, last(settings, judged["modes"]), grid),
        "progress": pictures.progress(settings, judged["modes"]),
        "spectrum": pictures.spectrum(values),
    }


STUDY = Study(
    name="mixture-gan",
    title="Does a GAN cover more of eight Gaussians with complex momentum? (chapter 4)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
