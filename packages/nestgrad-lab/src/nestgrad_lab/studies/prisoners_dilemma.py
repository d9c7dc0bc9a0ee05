"""The iterated prisoner's dilemma: which solutions descent, LOLA and a search that branches find (chapter 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.drawing import new_figure, plain
from nestgrad_lab.studies.prisoners_dilemma_settings import FULL, SMALL, Settings
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table

NOTE = """\
Losses are the discounted mean of what a round costs: 2 where both defect, 1 where both cooperate. dilemma: five logits
a player, of cooperation at first and after CC, CD, DC, DD (its own action first), discount 0.96. small dilemma: one
logit, after the other's defection cooperation is frozen at σ(-3), discount 0.9. Where play ends is named by its
losses: defection, both at least 1.9; cooperation, both at most 1.1, as those of tit-for-tat are; else other. answered:
ends in cooperation with either player's defection likelier than not after the other's (CD). returned: ends in
cooperation with a player who, where the two have done different things (CD, DC), is likelier than not to do what the
other did, as tit-for-tat does. search: from a random start up the largest exponent of gradient descent's own map, then
branches to both sides along its leading directions, optimised by gradient descent. no ascent: the same from the start
itself. LOLA search: a search with the map of LOLA in the place of gradient descent's, its branches optimised by LOLA.
random directions: branches from the same starts, as far as the search's, along random directions, in several draws,
optimised by gradient descent. products: with Jacobians of a step, that is with second derivatives; steps: of play, in
all. full: more of everything. All settings are our own."""
SEARCHES = ("no ascent", "search", "LOLA search")
KINDS = ("defection", "cooperation", "other")
DEFECTION, COOPERATION = 1.9, 1.1


def pieces(settings: Settings) -> list[Piece]:
    """Descents and LOLA from starts of each spread, the control, and searches from every start."""
    found: list[Piece] = []
    for name in settings.games:
        found += [
            Piece(f"{name}: {way}, spread {spread:g}", {"game": name, "way": way, "spread": spread})
            for spread in settings.spreads
            for way in ("gradients", "LOLA")
        ]
        found.append(Piece(f"{name}: random directions", {"game": name, "way": "control"}))
        for way in SEARCHES:
            found += [
                Piece(f"{name}: {way} {k + 1}", {"game": name, "way": way, "which": k})
                for k in range(settings.searches)
            ]
    return found


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Where play ends, and what a search cost."""
    from nestgrad_lab.studies import torch_prisoners_dilemma as torch_side  # noqa: PLC0415  (a framework)

    told = piece.arguments
    name, way = told["game"], told["way"]
    if way in ("gradients", "LOLA"):
        return torch_side.descended(settings, name, told["spread"], context, shaping=way == "LOLA")
    if way == "control":
        return torch_side.controlled(settings, name, settings.distances[settings.games.index(name)], context)
    return torch_side.searched(settings, name, told["which"], way, context)


def kind(losses: Array) -> str:
    """The name of an end with losses (2,)."""
    if losses.min() >= DEFECTION:
        return KINDS[0]
    return KINDS[1] if losses.max() <= COOPERATION else KINDS[2]


def kinds(one: Arrays) -> list[str]:
    """Of every end."""
    return [kind(losses) for losses in one["losses"]]


def answered(one: Arrays) -> int:
    """Ends in cooperation with either logit of cooperation after CD negative; of one logit it is frozen so."""
    both = one["end"][[each == KINDS[1] for each in kinds(one)]]
    return len(both) if both.shape[-1] == 1 else int((both[..., 2] < 0.0).all(-1).sum())


def returned(one: Arrays) -> int:
    """Ends in cooperation with a player of negative logit after CD and a positive one after DC; 0 of one logit."""
    both = one["end"][[each == KINDS[1] for each in kinds(one)]]
    return 0 if both.shape[-1] == 1 else int(((both[..., 2] < 0.0) & (both[..., 3] > 0.0)).any(-1).sum())


def tables(settings: Settings, results: Results) -> list[Table]:
    """What each way finds; the searches one by one; the solutions' strategies."""
    found: list[Table] = []
    for name in settings.games:
        rows = [_row(settings, way, group) for way, group in _ways(settings, results, name).items()]
        found.append(
            Table(f"What is found, {name}", ["way", "ends", *KINDS, "answered", "returned", "products", "steps"], rows)
        )
        each = [_search_row(settings, way, one) for way, one in _searches(results, name)]
        columns = ["search", "exponent", "ends", *KINDS, "both", "products", "steps"]
        found.append(Table(f"The searches, {name}", columns, each))
    strategies = _strategies(results, "dilemma") if "dilemma" in settings.games else []
    columns = ["found by", "kind", "losses", "player", "at first", "CC", "CD", "DC", "DD"]
    return [*found, Table("Strategies of the first of each kind, dilemma", columns, strategies)]


def _ways(settings: Settings, results: Results, name: str) -> dict[str, list[Arrays]]:
    """The pieces of each way, the searches of all starts together."""
    groups: dict[str, list[Arrays]] = {}
    for piece, one in results.items():
        game, way = piece.split(": ")
        if game == name:
            groups.setdefault(way.rstrip("0123456789").rstrip() if "spread" not in way else way, []).append(one)
    return groups


def _row(settings: Settings, way: str, group: list[Arrays]) -> list[Cell]:
    ends = [one for each in group for one in kinds(each)]
    products = sum(int(one["products"]) for one in group) if "products" in group[0] else 0
    steps = sum(int(one["updates"]) if "updates" in one else settings.steps * len(one["losses"]) for one in group)
    counts = [ends.count(one) for one in KINDS]
    return [way, len(ends), *counts, sum(map(answered, group)), sum(map(returned, group)), products, steps]


def _searches(results: Results, name: str) -> list[tuple[str, Arrays]]:
    return [
        (piece.split(": ")[1], one) for piece, one in results.items() if "path" in one and piece.startswith(f"{name}:")
    ]


def _search_row(settings: Settings, way: str, one: Arrays) -> list[Cell]:
    ends = kinds(one)
    counts = [ends.count(name) for name in KINDS]
    both = counts[0] > 0 and counts[1] > 0
    return [way, f"{float(one['exponent']):.4f}", len(ends), *counts, both, int(one["products"]), int(one["updates"])]


def _strategies(results: Results, name: str) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    shown: set[tuple[str, str]] = set()
    for way, one in _searches(results, name):
        for losses, logits, each in zip(one["losses"], one["end"], kinds(one), strict=True):
            family = way.rstrip("0123456789 ")
            if family == SEARCHES[0] or (family, each) in shown:
                continue
            shown.add((family, each))
            told = " ".join(f"{value:.3f}" for value in losses)
            chances = 1.0 / (1.0 + np.exp(-logits))
            for which, player in enumerate(("one", "two")):
                rows.append([way, each, told, player, *(f"{chance:.2f}" for chance in chances[which])])
    return rows


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Both players' losses where play ends, by way."""
    ways = {name: _ways(settings, results, name) for name in settings.games}
    columns = max(len(each) for each in ways.values())
    figure = new_figure(2.3 * columns, 2.7 * len(ways))
    axes = figure.subplots(len(ways), columns, squeeze=False, sharex=True, sharey=True)
    for row, (name, each) in zip(axes, ways.items(), strict=True):
        for axis, (way, group) in zip(row, each.items(), strict=False):
            losses = np.concatenate([one["losses"] for one in group])
            for value in (1.0, 2.0):
                axis.plot(value, value, marker="+", ms=14, color="0.6", zorder=0)
            axis.plot(losses[:, 0], losses[:, 1], ls="", marker="o", mfc="none", ms=5, color="black", alpha=0.6)
            ends = [one for part in group for one in kinds(part)]
            counts = ", ".join(str(ends.count(one)) for one in KINDS)
            axis.set_title(f"{way}\n{counts}", fontsize=8)
            axis.set(xlim=(0.7, 2.5), ylim=(0.7, 2.5), aspect="equal")
        row[0].set_ylabel(f"{name}\nloss of two")
    for axis in axes[-1]:
        axis.set_xlabel("loss of one")
    figure.suptitle("Where play ends: so many in defection, cooperation, other", fontsize=10)
    plain(axes.flat)
    return {"losses": figure}


STUDY = Study(
    name="prisoners-dilemma",
    title="Which solutions of the iterated prisoner's dilemma are found? (chapter 5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
