"""The study of exponents and branches in two dimensions."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

import torch

from nestgrad_lab.studies import torch_two_player_maps as torch_side
from nestgrad_lab.studies import two_player_maps as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    games=("small dilemma", "matching pennies"),
    step_sizes=(5.0, 1.0),
    look_aheads=(0.0, 4.0),
    ascent_steps=(8, 2),
    ascent_rates=(0.3, 0.3),
    grid=3,
    exponent_steps=5,
    starts=1,
    directions=1,
    steps=80,
    toy_starts=3,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


def test_gradients_at_the_centre_of_matching_pennies_have_the_exponent_of_a_bilinear_game():
    plain = dataclasses.replace(TINY, games=("matching pennies",), step_sizes=(5.0,), look_aheads=(0.0,))
    found = torch_side.exponents(plain, "matching pennies", np.zeros((1, 1, 2)), CONTEXT)
    assert found[0, 0] == pytest.approx(0.5 * math.log(1.0 + (5.0 * 0.25) ** 2), abs=1e-10)


def test_shaping_makes_the_centre_of_matching_pennies_attract(results):
    chances = study.probabilities(TINY)
    assert chances[1] == pytest.approx(0.5)
    assert results["map, matching pennies"]["exponents"][1, 1] < 0.0
    one = results["search, matching pennies"]
    np.testing.assert_allclose(one["ends"], 0.0, atol=1e-3)
    np.testing.assert_allclose(one["losses"], 0.0, atol=1e-6)


def test_maps_of_like_players_are_symmetric(results):
    fine = dataclasses.replace(TINY, refinements=40)
    rows = np.array([[[1.0, -1.5], [-1.5, 1.0]]])
    found = torch_side.exponents(fine, "small dilemma", rows, CONTEXT)
    assert found[0, 0] == pytest.approx(found[0, 1], rel=1e-6)
    coarse = results["map, small dilemma"]["exponents"]
    np.testing.assert_allclose(coarse, coarse.T, atol=3e-3)  # two refinements leave so much
    assert coarse[2, 2] < 0.0  # next to cooperation


def test_paths_end_where_branches_do(results):
    one = results["search, small dilemma"]
    assert one["paths"].shape == (2, TINY.steps + 1, 2)
    np.testing.assert_array_equal(one["paths"][:, -1], one["ends"])
    apart = np.linalg.norm(one["paths"][:, 0] - one["points"][0], axis=1)
    np.testing.assert_allclose(apart, TINY.distance, rtol=1e-12)
    assert sorted(study.sigmoid(one["ends"])[:, 0] > 0.5) == [False, True]  # defection and cooperation


def test_the_ridges_lead_to_all_minima(results):
    one = results["toy"]
    assert len(study.distinct(one["ends"])) == 4
    turn = np.array(
        [
            [math.cos(torch_side.TURN), -math.sin(torch_side.TURN)],
            [math.sin(torch_side.TURN), math.cos(torch_side.TURN)],
        ]
    )
    np.testing.assert_allclose(np.abs(one["ends"] @ turn), [np.sqrt(TINY.toy_curvatures)] * len(one["ends"]), atol=1e-6)
    assert (one["ridden"] > 0).all()
    assert len(one["edges"]) >= len(one["ends"])
    ends = torch.tensor(one["ends"])
    expected = -0.25 * sum(c**2 for c in TINY.toy_curvatures)
    np.testing.assert_allclose(torch_side.toy_loss(TINY, ends), expected, atol=1e-9)


def test_tables_and_figures(results):
    ends, costs, toy = study.tables(TINY, results)
    assert {row[0] for row in ends.rows} == set(TINY.games)
    assert [row[0] for row in costs.rows] == list(TINY.games)
    assert toy.rows[0][2] == 4
    assert set(study.figures(TINY, results)) == {"maps", "toy"}
    assert study.distinct(np.array([[0.0, 0.0], [1.0, 0.0], [0.05, 0.0]])) == [[0, 2], [1]]
