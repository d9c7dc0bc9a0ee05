"""Exponents and branches in two dimensions: three games of one logit a player, and one loss (chapter 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import two_player_maps_pictures as pictures
from nestgrad_lab.studies.study import Arrays, Cell, Context, Piece, Results, Study, Table
from nestgrad_lab.studies.two_player_maps_settings import FULL, SMALL, Settings

NOTE = """\
Two players of one logit each: the small iterated prisoner's dilemma by gradient descent, matching pennies and a quarter
of them mixed with the dilemma by LOLA. map: the largest exponent of ten steps of play over both probabilities. search:
from random starts up the largest exponent, then branches to both sides along both directions, played. toy: one loss of
two weights, Σ ¼ v⁴ - ½ c v², turned: a maximum, four saddles, four minima. Ridge Rider from the maximum rides each
direction of negative curvature and descends; where it comes to a saddle it branches again. full: finer and more.
Settings are our own."""
APART = 0.1
"""Ends so far apart in probability or in the toy's weights are different."""


def pieces(settings: Settings) -> list[Piece]:
    """A map and a search for each game, and the toy."""
    kinds = ("map", "search")
    return [*(Piece(f"{kind}, {name}", {"game": name}) for name in settings.games for kind in kinds), Piece("toy")]


def work(settings: Settings, piece: Piece, context: Context) -> Arrays:
    """Numbers of one piece; see nestgrad_lab.studies.torch_two_player_maps."""
    from nestgrad_lab.studies import torch_two_player_maps as torch_side  # noqa: PLC0415  (a framework)

    if piece.name == "toy":
        return torch_side.toy(settings, context)
    if piece.name.startswith("search"):
        return torch_side.searched(settings, piece.arguments["game"], context)
    chances = probabilities(settings)
    logits = np.log(chances / (1.0 - chances))
    grid = np.stack(np.meshgrid(logits, logits, indexing="ij"), -1)
    return {"exponents": torch_side.exponents(settings, piece.arguments["game"], grid, context)}


def probabilities(settings: Settings) -> Array:
    """Of the map, in either direction."""
    return np.linspace(0.02, 0.98, settings.grid)


def sigmoid(logits: Array) -> Array:
    """Probabilities of logits."""
    return 1.0 / (1.0 + np.exp(-logits))


def distinct(ends: Array) -> list[list[int]]:
    """Places of ends (count, 2), those within APART of the first of a group together."""
    groups: list[list[int]] = []
    for k, end in enumerate(ends):
        near = [group for group in groups if np.abs(ends[group[0]] - end).max() < APART]
        if near:
            near[0].append(k)
        else:
            groups.append([k])
    return groups


def tables(settings: Settings, results: Results) -> list[Table]:
    """Where branches end, what that cost, and the toy's minima."""
    rows: list[list[Cell]] = []
    costs: list[list[Cell]] = []
    for name in settings.games:
        one, exponents = results[f"search, {name}"], results[f"map, {name}"]["exponents"]
        chances = sigmoid(one["ends"])
        for group in distinct(chances):
            at = " ".join(f"{value:.3f}" for value in chances[group].mean(0))
            losses = " ".join(f"{value:.4f}" for value in one["losses"][group].mean(0))
            rows.append([name, at, losses, len(group), f"{one['norms'][group].max():.1g}"])
        where = np.unravel_index(exponents.argmax(), exponents.shape)
        highest = " ".join(f"{probabilities(settings)[place]:.2f}" for place in where)
        share = f"{float((exponents > 0).mean()):.2f}"
        costs.append([name, f"{exponents.max():.4f}", highest, share, int(one["products"]), int(one["updates"])])
    toy = results["toy"]
    minima, plain = len(distinct(toy["ends"])), len(distinct(toy["plain"]))
    told: list[list[Cell]] = [
        ["Ridge Rider", int(toy["branches"]), minima, int(toy["products"]), int(toy["updates"])],
        ["gradient descent", len(toy["plain"]), plain, 0, 1000 * len(toy["plain"])],
    ]
    return [
        Table("Where branches end", ["game", "probabilities", "losses", "branches", "norm"], rows),
        Table("Exponents and costs", ["game", "highest", "at", "share > 0", "products", "steps"], costs),
        Table("The toy's four minima", ["way", "branches or starts", "minima", "products", "steps"], told),
    ]


def figures(settings: Settings, results: Results) -> dict[str, Any]:
    """Maps with the branches over them, and the toy."""
    return {
        "maps": pictures.maps(settings, results, probabilities(settings)),
        "toy": pictures.toy(settings, results["toy"]),
    }


STUDY = Study(
    name="two-player-maps",
    title="Where do nearby starts part in games of two logits, and what do branches find? (chapter 5)",
    note=NOTE,
    settings={"": (SMALL, FULL)},
    pieces=pieces,
    work=work,
    tables=tables,
    figures=figures,
)
