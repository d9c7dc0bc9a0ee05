"""The logistic map: exponents against its bifurcations, and against what is known of them (chapter 5)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.logistic_map_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
x ← r x (1 - x). Exponents in nats a step, by nestgrad_torch.lyapunov_exponents after the map has settled. Known of it:
ln |2 - r| where its fixed point is stable (r < 3), ½ ln |4 + 2r - r²| of its cycle of two (r < 1 + √6), 0 at either end
of that, ln 2 at r = 4; chaos begins at r = 3.5699. full: more r and more steps."""
KNOWN = (2.8, 3.0, 3.2, 1.0 + math.sqrt(6.0), 3.83, 4.0)
"""Values of r in the table."""
ONSET = 3.569946
"""r at the end of the first cascade of period doublings."""
POSITIVE = 1e-2
"""An exponent of so many steps above this is taken for chaos."""


def known(growth: float) -> float:
    """The exponent where it is known in closed form, else NaN."""
    if growth <= 3.0:  # noqa: PLR2004  (the fixed point's end)
        return math.log(abs(2.0 - growth)) if growth != 2.0 else -math.inf  # noqa: PLR2004
    if growth <= 1.0 + math.sqrt(6.0):
        size = abs(4.0 + 2.0 * growth - growth**2)
        return 0.5 * math.log(size) if size else -math.inf
    return math.log(2.0) if growth == 4.0 else math.nan  # noqa: PLR2004  (full chaos)


def pieces(settings: Settings) -> list[Piece]:
    """The sweep, in parts, and the values of r at which the exponent is known."""
    parts = -(-settings.points // (5 * settings.at_once))
    return [*(Piece(f"sweep {k + 1}", {"part": k, "parts": parts}) for k in range(parts)), Piece("known")]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """r, exponents and the last values of x for a part of the sweep; exponents at known r, and of many x at r = 4."""
    from nestgrad_lab.studies.torch_logistic_map import iterated  # noqa: PLC0415  (a framework)

    if piece.name == "known":
        growth = np.array(KNOWN)
        found, _ = iterated(growth, np.full(len(growth), settings.start), settings.settle, settings.steps, context)
        context.tick(0.3)
        starts = np.random.default_rng(context.seed).uniform(0.05, 0.95, size=settings.starts)
        four, _ = iterated(np.full(settings.starts, 4.0), starts, 10, settings.exact_steps, context)
        return {"exponents": found, "four": four}
    growth = np.array_split(sweep(settings), piece.arguments["parts"])[piece.arguments["part"]]
    exponents: list[Array] = []
    values: list[Array] = []
    for few in np.array_split(growth, max(1, len(growth) // settings.at_once)):
        found, seen = iterated(few, np.full(len(few), settings.start), settings.settle, settings.steps, context)
        exponents.append(found)
        values.append(seen[-settings.shown :])
        context.tick(len(exponents) * settings.at_once / len(growth))
    return {"growth": growth, "exponents": np.concatenate(exponents), "values": np.concatenate(values, 1)}


def sweep(settings: Settings) -> Array:
    """The values of r."""
    return np.linspace(settings.growth[0], settings.growth[1], settings.points)


def swept(results: Results) -> dict[str, Array]:
    """The parts of the sweep, joined."""
    parts = [one for name, one in results.items() if name != "known"]
    axes = {"growth": 0, "exponents": 0, "values": 1}
    return {name: np.concatenate([one[name] for one in parts], axis) for name, axis in axes.items()}


def tables(settings: Settings, results: Results) -> list[Table]:
    """Exponents beside what is known of them; where chaos begins."""
    one, four = results["known"], results["known"]["four"]
    rows: list[list[Cell]] = []
    for growth, found in zip(KNOWN, one["exponents"], strict=True):
        right = known(growth)
        told = f"{right:.6f}" if math.isfinite(right) else "-"
        rows.append([f"{growth:.4f}", settings.steps, f"{found:.6f}", told])
    rows.append(["4.0000", settings.exact_steps, f"{four.mean():.6f}", f"{math.log(2.0):.6f}"])
    text = f"The last row is the mean of {len(four)} starts, which differ from ln 2 by {_farthest(four):.1g} at most."
    both = swept(results)
    chaotic = both["growth"][both["exponents"] > POSITIVE]
    share = float((both["exponents"][both["growth"] > ONSET] > POSITIVE).mean())
    began: list[Cell] = [f"{chaotic.min():.4f}" if len(chaotic) else "-", f"{ONSET:.4f}", f"{share:.3f}"]
    columns = ["first r with an exponent above 0.01", "end of the doublings", "share of r beyond that is chaotic"]
    return [
        Table("Exponents at known r", ["r", "steps", "exponent", "known"], rows, [text]),
        Table("Chaos in the sweep", columns, [began]),
    ]


def _farthest(four: Array) -> float:
    return float(np.abs(four - math.log(2.0)).max())


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """The diagram of bifurcations, and the exponent below it."""
    both = swept(results)
    figure = new_figure(9, 6.4)
    above, below = figure.subplots(2, 1, sharex=True)
    count = len(both["values"])
    above.plot(np.tile(both["growth"], count), both["values"].ravel(), ls="", marker=",", color="black", alpha=0.6)
    above.set_ylabel("x")
    below.plot(both["growth"], both["exponents"], color="black", lw=1.0)
    below.axhline(0.0, color="0.5", lw=0.8)
    exact = np.array([known(float(one)) for one in both["growth"]])
    below.plot(both["growth"], exact, color="0.6", lw=3.5, alpha=0.6, label="closed form", zorder=0)
    below.plot(4.0, math.log(2.0), ls="", marker="o", mfc="none", color="black", label="ln 2")
    below.set(xlabel="r", ylabel="exponent, nats a step", ylim=(-2.0, 0.9))
    below.legend(frameon=False, fontsize=9, loc="lower right")
    for axis in (above, below):
        axis.axvline(ONSET, color="0.5", lw=0.8, ls=(0, (2, 2)))
    plain([above, below])
    return {"diagram": figure}


STUDY = Study(
    name="logistic-map",
    title="Are the logistic map's exponents those that are known? (chapter 5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
