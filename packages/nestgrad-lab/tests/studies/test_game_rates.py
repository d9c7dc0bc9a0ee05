"""The study of rates on bilinear games and the Dirac GAN."""

import cmath
import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")
pytest.importorskip("nestgrad_reference")

from nestgrad_lab.studies import game_rates as study
from nestgrad_lab.studies import game_spectra as shared
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    arguments=(0.0, math.pi / 4),
    steps=2000,
    dirac_moduli=(0.9, 0.5),
    dirac_arguments=(math.pi / 8, math.pi),
    dirac_steps=2400,
    grid=(6, 5),
    sweep=3,
    disk=11,
    tried=200,
    shown=20,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


@pytest.mark.parametrize(
    ("turns", "argument", "expected"),
    [
        ("simultaneous", math.pi / 2, 0.89876),
        ("simultaneous", math.pi / 4, 0.89945),
        ("simultaneous", math.pi / 8, 0.93538),
        ("alternating", math.pi, 2 * math.sqrt(3) - 3),
    ],
)
def test_the_sweep_finds_the_best_rates(turns, argument, expected):
    values = study.spectrum(TINY, turns)
    assert shared.least_rate(values, argument, turns) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("argument", [0.0, math.pi])
def test_players_at_once_never_converge_with_real_momentum(argument):
    values = study.spectrum(TINY, "simultaneous")
    assert shared.least_rate(values, argument, "simultaneous") == pytest.approx(1.0, abs=1e-6)


def test_the_sweep_finds_what_needs_small_steps():
    values = study.spectrum(TINY, "simultaneous")
    found = shared.least_rate(values, math.pi / 16, "simultaneous")
    one = shared.spectra().rate(values, step_size=0.026, momentum=cmath.rect(0.9, math.pi / 16))
    assert 0.95 < found <= one + 1e-9 < 0.973


def test_best_rates_are_played(results):
    table = study.tables(TINY, results)[0]
    rows = {(row[0], row[1].split(":")[0]): row for row in table.rows}
    assert rows["simultaneous", "0"][4] == "none < 1"
    assert float(rows["extragradient", "-"][4]) == pytest.approx(math.sqrt(3) / 2, abs=1e-6)
    assert float(rows["optimistic", "-"][4]) == pytest.approx(math.sqrt(0.5), abs=1e-4)
    assert float(rows["gradients", "-"][4]) == pytest.approx(math.sqrt(1.01), abs=1e-6)
    assert all(row[-1] is True for row in table.rows if row[4] != "none < 1")
    assert float(rows["simultaneous", "any"][4]) <= float(rows["simultaneous", "π/4"][4])
    assert float(rows["alternating", "any"][4]) < 2 * math.sqrt(3) - 3


def test_the_dirac_gan_decays_by_its_spectral_radius(results):
    np.testing.assert_allclose(sorted(results["dirac"]["eigenvalues"][:, 1]), [-0.5, 0.5], rtol=1e-12)
    table = study.tables(TINY, results)[1]
    assert [row[3] for row in table.rows] == ["0.985690", "0.984567", "1.000185", "0.999630"]
    assert all(row[-1] for row in table.rows)


@pytest.mark.parametrize("turns", study.TURNS)
def test_the_condition_for_small_steps_is_that_of_the_rate(results, turns):
    assert results[f"region, {turns}"]["right"] >= TINY.tried - 2
    for beta, expected in ((0.55j, False), (0.6j, True)):  # 1/√3 lies between them
        assert study.small_steps_converge(beta, "simultaneous") == expected
    assert study.small_steps_converge(-0.3, "alternating")
    assert not study.small_steps_converge(-0.3, "simultaneous")
    assert np.nanmin(results[f"region, {turns}"]["rates"][0]) < 1.0


def test_a_trajectory_tells_its_rate_through_oscillation():
    steps = np.arange(600)
    wave = 0.97**steps * (1.0 + 0.4 * np.cos(0.3 * steps))
    assert shared.played_rate(wave) == pytest.approx(0.97, abs=1e-5)
    assert shared.played_rate(np.zeros((30, 2))) == 0.0
    assert shared.exponents_agree(0.97, 0.9702, 0.01)
    assert not shared.exponents_agree(0.97, 0.971, 0.01)
    assert not shared.exponents_agree(1.0002, 0.9998, 0.01)


def test_angles_have_names():
    names = {0.0: "0", math.pi: "π", math.pi / 8: "π/8", 3 * math.pi / 4: "3π/4", 1.0: "1.0000"}
    assert {angle: shared.angle_name(angle) for angle in names} == names


def test_no_length_leaves_the_floats(results):
    assert shared.length(1.0, 500) == 500
    assert shared.length(0.1, 5000) == 280
    for turns in (*study.TURNS, "others"):
        rows = results[f"best, {turns}"]["rows"]
        assert np.isfinite(rows[rows[:, -2] < study.NEVER]).all()


def test_a_missing_reference_is_named(monkeypatch):
    import sys

    from nestgrad_lab.errors import MissingPackage

    monkeypatch.setitem(sys.modules, "nestgrad_reference", None)
    with pytest.raises(MissingPackage, match=r"nestgrad-lab\[games\]"):
        shared.spectra()


def test_all_figures_are_drawn(results):
    drawn = study.figures(TINY, results)
    assert set(drawn) == {"maps", "arguments", "region", "trajectories", "distances"}
    assert len(drawn["maps"].axes) == 2 * len(TINY.arguments) + 1
