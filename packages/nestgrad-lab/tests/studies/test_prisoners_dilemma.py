"""The study of the iterated prisoner's dilemma, and its games."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

import torch

from nestgrad_lab.studies import prisoners_dilemma as study
from nestgrad_lab.studies import torch_two_player_games as games
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    games=("small dilemma",),
    steps=150,
    starts=6,
    spreads=(0.3,),
    searches=1,
    ascent_steps=(12, 1),
    ascent_rates=(0.5, 0.1),
    directions=2,
    exponent_steps=5,
    refinements=2,
    controls=2,
    shaped_ascent_steps=10,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


def logits(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("one", "two", "losses"),
    [
        (-1e3, -1e3, (1.9590639972476165,) * 2),
        (1e3, 1e3, (1.0, 1.0)),
        (0.0, 0.0, (1.8436208881352993,) * 2),
        (30.0, -30.0, (2.102345068718576, 1.6894059319451813)),
    ],
)
def test_the_small_dilemma_has_its_known_losses(one, two, losses):
    found = games.small_dilemma(logits(one), logits(two))
    np.testing.assert_allclose([float(x) for x in found], losses, atol=1e-12)


def test_the_dilemma_has_its_known_losses():
    defect = logits(*[-60.0] * 5)
    tit_for_tat = logits(60.0, 60.0, -60.0, 60.0, -60.0)
    np.testing.assert_allclose(games.dilemma(defect, defect), [2.0, 2.0], atol=1e-12)
    np.testing.assert_allclose(games.dilemma(tit_for_tat, tit_for_tat), [1.0, 1.0], atol=1e-12)
    always = logits(*[60.0] * 5)
    np.testing.assert_allclose(games.dilemma(always, defect), [3.0, 0.0], atol=1e-12)
    # Tit-for-tat is taken in once: 3 in the first round, 2 in all others.
    np.testing.assert_allclose(games.dilemma(tit_for_tat, defect), [2.04, 1.92], atol=1e-12)


def test_each_player_sees_its_own_action_first():
    one, two = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = games.dilemma(one, two)
    other_first, other_second = games.dilemma(two, one)
    np.testing.assert_allclose([first, second], [other_second, other_first], rtol=1e-12)


def test_matching_pennies_and_the_mixture():
    one, two = logits(1.3), logits(-0.4)
    p, q = torch.sigmoid(one), torch.sigmoid(two)
    x, y = torch.cat([p, 1 - p]), torch.cat([q, 1 - q])
    expected = x @ logits([1.0, -1.0], [-1.0, 1.0]) @ y
    found = games.pennies(one, two)
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-14)
    assert float(found[0] + found[1]) == 0.0
    mixed = games.mixing(one, two, 0.25)
    parts = games.small_dilemma(one, two)
    assert float(mixed[0]) == pytest.approx(0.25 * float(found[0]) + 0.75 * float(parts[0]), abs=1e-14)


def test_games_along_leading_axes_are_independent():
    both = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = games.dilemma(*games.both(both).values())
    for k in range(3):
        np.testing.assert_allclose([x[k] for x in together], games.dilemma(*both[k]), rtol=1e-12)
    np.testing.assert_array_equal(games.joined(games.both(both)), both)


def test_gradients_find_defection_and_the_search_both(results):
    assert study.kinds(results["small dilemma: gradients, spread 0.3"]) == ["defection"] * 6
    found = results["small dilemma: search 1"]
    assert {"defection", "cooperation"} <= set(study.kinds(found))
    assert found["exponent"] > results["small dilemma: no ascent 1"]["exponent"]
    assert (found["products"] > results["small dilemma: no ascent 1"]["products"]).all()
    assert found["path"].tolist() == [[0, 1], [0, -1], [1, 1], [1, -1]]


def test_the_search_along_lolas_map_finds_both_as_well(results):
    found = results["small dilemma: LOLA search 1"]
    assert {"defection", "cooperation"} <= set(study.kinds(found))
    size = (2 * TINY.shaped_refinements + 1) * TINY.shaped_exponent_steps
    ascent = TINY.shaped_ascent_steps * (size + 2 * TINY.shaped_exponent_steps)
    assert found["products"] == ascent + 2 * size


def test_the_control_begins_as_far_away(results):
    one = results["small dilemma: random directions"]
    start = results["small dilemma: search 1"]["start"]
    apart = np.linalg.norm((one["start"] - start).reshape(len(one["start"]), -1), axis=1)
    np.testing.assert_allclose(apart, TINY.distances[0], rtol=1e-12)
    assert len(apart) == 2 * 2 * TINY.controls


def test_the_tables_count_what_was_found(results):
    found, searches, strategies = study.tables(TINY, results)
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["gradients, spread 0.3"] == [6, 6, 0, 0, 0, 0, 0, 6 * TINY.steps]
    assert rows["search"][-2:] == [int(results["small dilemma: search 1"][name]) for name in ("products", "updates")]
    assert [row[0] for row in searches.rows] == ["no ascent 1", "search 1", "LOLA search 1"]
    assert not strategies.rows
    assert set(study.figures(TINY, results)) == {"losses"}


def test_ends_are_named_by_their_losses():
    assert [study.kind(np.array(each)) for each in ((2.0, 1.95), (1.05, 1.0), (1.0, 1.5))] == list(study.KINDS)
    ends = np.array([[[1.0, 1.0, -1.0, 0.0, 0.0]] * 2, [[1.0, 1.0, 1.0, 0.0, 0.0]] * 2])
    assert study.answered({"losses": np.ones((2, 2)), "end": ends}) == 1
    ends[1, 0, 2:4] = -1.0, 1.0
    assert study.returned({"losses": np.ones((2, 2)), "end": ends}) == 1
