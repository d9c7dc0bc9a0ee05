"""The study of games between cooperation and opposition."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")
pytest.importorskip("nestgrad_reference")

from nestgrad_lab.studies import mixed_games as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL, size=3, curvatures=(0.5, 2.0), sweep=2, arguments=(0.0, math.pi / 4), played=(0.0, 1.0), steps=1500
)


def context(results=None, seed=0):
    return Context(seed=seed, device="cpu", backend="torch", results=results or {}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    found = {}
    for piece in study.pieces(TINY):
        found[piece.name] = study.work(TINY, piece, context({name: found[name] for name in piece.needs}))
    return found


def test_the_measured_spectrum_is_that_of_the_blocks():
    from nestgrad_lab.studies import torch_mixed_games as torch_side

    curvatures, opposed = study.game(TINY, 0.7, 3)
    assert (opposed[0], opposed[-1]) == (0.0, 0.7)
    assert ((opposed >= 0.0) & (opposed <= 0.7)).all()
    jacobian = torch_side.jacobian(torch_side.mixed(curvatures, opposed, context()), TINY.size, context())
    across, along = np.diag(opposed * curvatures), np.diag((1.0 - opposed) * curvatures)
    np.testing.assert_allclose(jacobian, np.block([[along, across], [-across, along]]), atol=1e-14)
    values = curvatures * ((1.0 - opposed) + 1j * opposed)
    found = np.linalg.eigvals(jacobian)
    both = np.concatenate([values, values.conj()])
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(both), atol=1e-12)


def test_cooperation_is_heavy_balls(results):
    # The best of heavy ball for curvatures from μ to L: ((√κ - 1)/(√κ + 1)), κ = L/μ.
    one = results["γ 0"]
    assert one["rows"][0, 3] == pytest.approx(1 / 3, abs=2e-3)
    assert one["rows"][0, 3] < one["rows"][1, 3]
    assert one["recommended"][0] == pytest.approx(0.0)
    assert one["others"][1, 1] < 1.0


def test_opposition_needs_a_complex_coefficient(results):
    one = results["γ 1"]
    assert one["rows"][0, 3] >= study.ONE
    assert one["rows"][1, 3] < 0.99
    assert one["recommended"][0] == pytest.approx(math.pi / 4)
    assert one["rows"][-1, 3] <= one["rows"][1, 3] + 1e-6


def test_what_is_played_has_the_rate_of_the_spectrum(results):
    rates, beside, played = study.tables(TINY, results)
    assert len(played.rows) == 7  # four ways each, but for real momentum against opposition
    assert all(row[-1] for row in played.rows)
    assert [row[0] for row in rates.rows] == ["0", "1"]
    ahead = results["γ 0"]["others"][0, 1]
    assert beside.rows[0][4] == f"{ahead**0.5:.4f}"
    assert rates.rows[1][1] == "-"
    assert [row[1] for row in beside.rows] == ["0", "π/4"]


def test_the_seed_draws_the_game_and_figures_are_drawn(results):
    assert not np.array_equal(study.game(TINY, 1.0, 0)[1], study.game(TINY, 1.0, 1)[1])
    assert set(study.figures(TINY, results)) == {"rates", "spectra"}
