"""Lyapunov exponents along the training of the GAN of eight Gaussians (chapter 5)."""

from __future__ import annotations

import dataclasses
from typing import Any

from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies import mixture_gan_settings as mixture
from nestgrad_lab.studies.game_spectra import angle_name
from nestgrad_lab.studies.gan_exponents_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
The GAN of mixture-gan, one run for each setting of complex momentum: the real, the complex and the negative one that
were best there. At every look the leading exponents of the next steps of play, alternating and with one batch, over the
whole state: weights and velocities; lower bounds of the largest ones, as directions are refined twice. float64.
full: more of everything. Settings are our own."""


def pieces(settings: Settings) -> list[Piece]:
    """One for each setting of momentum."""
    choices = zip(settings.step_sizes, settings.moduli, settings.arguments, strict=True)
    return [Piece(_name(*one), {"choice": list(one)}) for one in choices]


def _name(step: float, modulus: float, argument: float) -> str:
    return f"arg β = {angle_name(argument)}, |β| = {modulus:g}, step {step:g}"


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Steps, exponents (looks, exponents) and products at every look."""
    from nestgrad_lab.studies.torch_gan_exponents import followed  # noqa: PLC0415  (a framework)

    gan = dataclasses.replace(mixture.SMALL, hidden=settings.hidden, batch=settings.batch, steps=settings.steps)
    return followed(settings, gan, tuple(piece.arguments["choice"]), context)


def tables(settings: Settings, results: Results) -> list[Table]:
    """The largest exponent at the looks, its end and its extremes."""
    rows: list[list[Cell]] = []
    for name, one in results.items():
        largest = one["exponents"][:, 0]
        told = [f"{value:.4f}" for value in (largest[0], largest.max(), largest[-1])]
        rows.append([name, *told, f"{int((largest > 0).sum())} of {len(largest)}", int(one["products"].sum())])
    columns = ["momentum", "at the start", "highest", "at the end", "looks above 0", "products"]
    return [Table(f"The largest exponent of {settings.num_steps} steps, in nats a step", columns, rows)]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """The leading exponents along the way."""
    figure = new_figure(7.5, 4.4)
    axis = figure.subplots()
    for (name, one), style in zip(results.items(), line_styles(len(results)), strict=True):
        axis.plot(one["steps"], one["exponents"][:, 0], label=name, lw=1.6, marker=".", **style)
        for column in one["exponents"].T[1:]:
            axis.plot(one["steps"], column, lw=0.8, **style)
    axis.axhline(0.0, color="0.5", lw=0.8)
    axis.set(xlabel="step", ylabel="leading exponents, nats a step")
    axis.legend(frameon=False, fontsize=9)
    plain([axis])
    return {"exponents": figure}


STUDY = Study(
    name="gan-exponents",
    title="How fast do nearby GANs part while they are trained? (chapter 5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
