"""Figures 3.3 and 3.4 of Lorraine's thesis: how near stand-ins for the inverse Hessian come to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import line_styles, new_figure, plain
from nestgrad_lab.studies.inverse_accuracy_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Context, Piece, Results, Study, Table

NOTE = """\
hypergradients: linear regression with one weight decay for each weight, ½ mean squared error + ½ Σ e^λ_i w_i², on
Boston's training and validation rows, float64. Weights are warmed up, then move by Adam, and λ by RMSprop at every
step, along the hypergradient of a Neumann series. On the way the same hypergradient is taken by Dense, which is exact
at these weights, by series of more and more terms and by CG of more and more steps. distance: ‖g - exact‖ / ‖exact‖.
inverse: the Hessian of a linear classifier of images made small, at its minimum, and series of more and more terms
for its inverse. c: the series' step, 1 over the largest eigenvalue; the released code's is reported as ‖I‖/‖H‖
(Frobenius), and its column says what becomes of that.
small: images of 7 × 7 pixels, 500 weights. full: 14 × 14, 1,970 weights. The thesis has 28 × 28, without decay, and
the pseudo-inverse."""
INVERSE = "inverse"
ROUNDING = 1e-9
"""Changes below this are none."""


def pieces(settings: Settings) -> list[Piece]:
    """One for each start of λ, and the inverse."""
    return [
        *(Piece(f"λ from {start:g}", {"log_decay": start}) for start in settings.log_decays),
        Piece(INVERSE),
    ]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Hypergradients (looks, ways, λ's), or the eigenvalues and pictures of an inverse Hessian."""
    from nestgrad_lab.studies import torch_inverse_accuracy as torch_side  # noqa: PLC0415  (a framework)

    if piece.name == INVERSE:
        return torch_side.inverse(settings, context)
    return torch_side.compared(settings, context, **piece.arguments)


def cosines(found: Array, exact: Array) -> Array:
    """Along the last axis."""
    above = (found * exact).sum(-1)
    return above / np.linalg.norm(found, axis=-1) / np.linalg.norm(exact, axis=-1)


def distances(found: Array, exact: Array) -> Array:
    """‖found - exact‖ / ‖exact‖ along the last axis."""
    return np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)


def errors(eigenvalues: Array, scale: float, orders: Sequence[int]) -> Array:
    """‖scale Σ_{j ≤ i} (I - scale H)ʲ - H⁻¹‖ / ‖H⁻¹‖ in the Frobenius norm for each i, by H's eigenvalues."""
    left = (1.0 - scale * eigenvalues)[None, :] ** (np.array(orders)[:, None] + 1)
    return np.linalg.norm(left / eigenvalues, axis=1) / np.linalg.norm(1.0 / eigenvalues)


def tables(settings: Settings, results: Results) -> list[Table]:
    """What holds of the stand-ins at all points; the inverse itself; closeness to the exact hypergradient."""
    own = {name: one for name, one in results.items() if name != INVERSE}
    held = [
        [name, look, *_held(settings, one, k)] for name, one in own.items() for k, look in enumerate(settings.looks)
    ]
    note = (
        "Over the terms of the series. CG nearer: of its two distances at the same number of Hessian products, "
        f"how often CG's is the smaller ({len(_same_cost(settings))} pairs a point)."
    )
    columns = ["λ", "hyper steps", "eigenvalues", "cosine never falls", "distance never rises", "CG nearer"]
    beside = ["λ", "stand-in", *(f"{look} hyper steps" for look in settings.looks)]
    first = "Neumann 1 has the direction of the identity."
    return [
        Table("What holds at each point", columns, held, [note]),
        _inverse_table(settings, results[INVERSE]),
        Table("Cosine with the exact hypergradient", beside, _rows(settings, own, cosines), [first]),
        Table("Distance from it, over its norm", beside, _rows(settings, own, distances)),
    ]


def _rows(settings: Settings, own: Results, measure: Callable[[Array, Array], Array]) -> list[list[Any]]:
    """For each stand-in, its measure at the looks."""
    kinds = [("neumann", j, f"Neumann {count}") for j, count in enumerate(settings.terms)]
    kinds += [("cg", j, f"CG {count}") for j, count in enumerate(settings.cg_steps)]
    return [
        [name, title, *map(float, measure(one[kind][:, j], one["exact"]))]
        for name, one in own.items()
        for kind, j, title in kinds
    ]


def _held(settings: Settings, one: Arrays, k: int) -> list[Any]:
    """At a point: the Hessian's eigenvalues, whether more terms never do harm, how often CG is nearer."""
    exact, series, krylov = one["exact"][k], one["neumann"][k], one["cg"][k]
    rising = bool((np.diff(cosines(series, exact)) >= -ROUNDING).all())
    falling = bool((np.diff(distances(series, exact)) <= ROUNDING).all())
    pairs = _same_cost(settings)
    nearer = sum(bool(distances(krylov[i], exact) < distances(series[j], exact)) for j, i in pairs)
    return [f"{one['smallest'][k]:.2g} to {one['largest'][k]:.2g}", rising, falling, f"{nearer} of {len(pairs)}"]


def _inverse_table(settings: Settings, one: Arrays) -> Table:
    values = one["eigenvalues"]
    scales = [1.0 / values.max(), len(values) ** 0.5 / np.linalg.norm(values)]
    columns = [errors(values, float(scale), settings.orders) for scale in scales]
    rows = [[order, *(float(column[k]) for column in columns)] for k, order in enumerate(settings.orders)]
    note = (
        f"{len(values)} weights, eigenvalues {values.min():.3g} to {values.max():.3g}, gradient norm "
        f"{float(one['gradient']):.1g}. A series converges where c times the largest is below 2: ‖I‖/‖H‖ times it is "
        f"{scales[1] * values.max():.3g}."
    )
    return Table("c Σ_{j ≤ i} (I - cH)ʲ less H⁻¹, over H⁻¹", ["i", "c = 1/largest", "c = ‖I‖/‖H‖"], rows, [note])


def _same_cost(settings: Settings) -> list[tuple[int, int]]:
    """Places in terms and in cg_steps that take equally many products, at least one."""
    terms = settings.terms
    return [(terms.index(steps + 1), i) for i, steps in enumerate(settings.cg_steps) if steps + 1 in terms]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Cosine and distance over terms; pictures of the inverse."""
    return {"hypergradients": _hypergradients(settings, results), "inverse": _pictures(settings, results[INVERSE])}


def _hypergradients(settings: Settings, results: Results) -> Any:
    own = {name: one for name, one in results.items() if name != INVERSE}
    figure = new_figure(11, 3.6 * len(own))
    axes = figure.subplots(len(own), 4, squeeze=False)
    for row, (name, one) in zip(axes, own.items(), strict=True):
        for pair, kind, counts in ((row[::2], "neumann", settings.terms), (row[1::2], "cg", settings.cg_steps)):
            for k, style in enumerate(line_styles(len(settings.looks))):
                exact, found = one["exact"][k], one[kind][k]
                label = f"{settings.looks[k]} hyper steps"
                pair[0].plot(counts, cosines(found, exact), marker=".", lw=1.3, label=label, **style)
                pair[1].plot(counts, distances(found, exact), marker=".", lw=1.3, label=label, **style)
            pair[0].set(ylim=(None, 1.02), ylabel="cosine", title=f"{name}: {kind}")
            pair[1].set(yscale="log", ylabel="distance", title=f"{name}: {kind}")
            for axis in pair:
                axis.set(xscale="log", xlabel="terms" if kind == "neumann" else "steps")
                axis.title.set_fontsize(9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    plain(axes.flat)
    return figure


def _pictures(settings: Settings, one: Arrays) -> Any:
    shown = [("tanh (cH)⁻¹", one["picture_inverse"])]
    shown += [(f"i = {order}", each) for order, each in zip(settings.orders, one["picture_series"], strict=True)]
    columns = (len(shown) + 1) // 2
    figure = new_figure(3.6 * columns, 7.6)
    axes = figure.subplots(2, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    image = None
    for axis, (title, picture) in zip(axes.flat, shown, strict=False):
        image = axis.imshow(picture, cmap="gray", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6)
    figure.suptitle("tanh of Σ_{j ≤ i} (I - cH)ʲ and of what it tends to; weights by class, then by pixel", fontsize=9)
    return figure


STUDY = Study(
    name="inverse-accuracy",
    title="How near do stand-ins come to the inverse Hessian? (figures 3.3 and 3.4)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
