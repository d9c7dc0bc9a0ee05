"""Spectra of game optimizers: roots against the map's own matrix and against trajectories, and the known best rates."""

import math

import numpy as np
import pytest

from nestgrad import InvalidInput
from nestgrad_reference import spectra

ROTATION = [0.5j, -0.5j]  # a Dirac GAN's at its equilibrium
UNIT = [1.0j, -1.0j]


def update_matrix(game, step, momentum):
    """(Re μ, Im μ, ω) to the next, players at once."""
    eye, none = np.eye(len(game)), np.zeros_like(game)
    real, imaginary = momentum.real * eye, momentum.imag * eye
    turned = step * momentum
    last = [turned.real * eye, -turned.imag * eye, eye - complex(step).real * game]
    return np.block([[real, -imaginary, -game], [imaginary, real, none], last])


@pytest.mark.parametrize(("step", "momentum"), [(0.3, 0.6 + 0.5j), (0.7, -0.4 + 0j), (0.2 + 0.1j, 0.3 - 0.8j)])
def test_roots_are_the_eigenvalues_of_the_map(step, momentum):
    game = np.random.default_rng(0).normal(size=(4, 4))
    found = spectra.momentum_roots(np.linalg.eigvals(game), step_size=step, momentum=momentum).ravel()
    wanted = np.linalg.eigvals(update_matrix(game, step, momentum))
    # A complex step size couples ω to its own conjugate pairs alone, so the two sets are one set.
    assert np.abs(found[:, None] - wanted).min(axis=0).max() < 1e-10
    assert np.abs(found[:, None] - wanted).min(axis=1).max() < 1e-10


@pytest.mark.parametrize(
    ("momentum", "turns", "expected"),
    [
        (0.0, "simultaneous", 1.001249),
        (0.9, "simultaneous", 1.1211),
        (-0.5, "simultaneous", 1.000185),
        (-0.5, "alternating", 0.999630),
        (0.9 * np.exp(0.125j * math.pi), "simultaneous", 0.985690),
        (0.9 * np.exp(0.125j * math.pi), "alternating", 0.984567),
        (0.9j, "simultaneous", 0.999698),
        (0.9j, "alternating", 0.999317),
    ],
)
def test_a_dirac_gans_rates_are_the_known_ones(momentum, turns, expected):
    spectrum = ROTATION if turns == "simultaneous" else [0.5]
    digits = 5e-5 if expected == 1.1211 else 5e-7  # as many as are known
    assert abs(spectra.rate(spectrum, step_size=0.1, momentum=momentum, turns=turns) - expected) < digits


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_a_trajectory_decays_by_the_rate(turns):
    step, momentum, strength = 0.6, 0.6 * np.exp(1.2j), 1.0
    x, y, of_x, of_y, sizes = 1.0, 0.3, 0j, 0j, []
    for _ in range(400):
        before = x
        of_x = momentum * of_x - strength * y
        x += (step * of_x).real
        of_y = momentum * of_y + strength * (before if turns == "simultaneous" else x)
        y += (step * of_y).real
        sizes.append(math.hypot(x, y))
    decay = (max(sizes[350:400]) / max(sizes[50:100])) ** (1 / 300)
    spectrum = UNIT if turns == "simultaneous" else [1.0]
    assert abs(decay / spectra.rate(spectrum, step_size=step, momentum=momentum, turns=turns) - 1.0) < 0.01


@pytest.mark.parametrize(
    ("argument", "step", "modulus", "rate"),
    [
        (math.pi / 2, 0.8556, 0.6735, 0.89876),
        (math.pi / 4, 0.3003, 0.70711, 0.89945),
        (math.pi / 8, 0.0959, 0.8059, 0.93538),
    ],
)
def test_the_best_momenta_of_a_bilinear_game_are_the_known_ones(argument, step, modulus, rate):
    found = spectra.best_momentum(UNIT, argument=argument)
    assert (found.step_size, abs(found.momentum), found.rate) == pytest.approx((step, modulus, rate), abs=1e-3)
    scaled = spectra.best_momentum([4.0j, -4.0j], argument=argument)
    assert (4.0 * scaled.step_size, scaled.rate) == pytest.approx((found.step_size, found.rate), abs=1e-6)


def test_with_every_argument_free_the_rate_is_lower_still():
    at_once, in_turn = spectra.best_momentum(UNIT), spectra.best_momentum([1.0], turns="alternating")
    assert 0.888 < at_once.rate < 0.88975
    assert 0.2 * math.pi < at_once.argument < 0.5 * math.pi
    assert in_turn.rate < 0.42936


def test_in_turn_the_best_real_momentum_is_negative():
    found = spectra.best_momentum([1.0], argument=math.pi, turns="alternating")
    wanted = (1.81667, 7.0 - 4.0 * math.sqrt(3.0), 2.0 * math.sqrt(3.0) - 3.0)
    assert (found.step_size, abs(found.momentum), found.rate) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("argument", [0.0, math.pi])
def test_no_real_momentum_converges_where_players_of_a_bilinear_game_move_at_once(argument):
    assert spectra.best_momentum(UNIT, argument=argument).rate > 1.0 - 1e-6


def test_small_steps_converge_where_the_imaginary_part_is_large_enough():
    rng, agree = np.random.default_rng(1), 0
    for _ in range(300):
        momentum = complex(math.sqrt(rng.uniform()) * np.exp(2j * math.pi * rng.uniform()))
        a, square = 1.0 - momentum.real, momentum.imag**2
        for turns, limit in [
            ("simultaneous", a**2 * (2.0 - a) / (2.0 + a)),
            ("alternating", a**2 * (1.0 - a) / (1.0 + a)),
        ]:
            spectrum = UNIT if turns == "simultaneous" else [1.0]
            converges = spectra.rate(spectrum, step_size=1e-3, momentum=momentum, turns=turns) < 1.0
            agree += converges == (square > limit)
    assert agree >= 595  # a step of 1e-3 is not zero: the boundary is off by as much


def test_a_real_step_size_sees_no_sign_of_the_imaginary_part():
    one, other = (spectra.rate([0.3 + 0.2j, 1.0], step_size=0.4, momentum=0.5 + s * 0.4j) for s in (1, -1))
    assert one != spectra.rate([0.3 + 0.2j, 1.0], step_size=0.4, momentum=0.5)
    assert abs(one - spectra.rate([0.3 - 0.2j, 1.0], step_size=0.4, momentum=0.5 - 0.4j)) < 1e-12
    both = [spectra.rate([0.3 + 0.2j, 0.3 - 0.2j], step_size=0.4, momentum=0.5 + s * 0.4j) for s in (1, -1)]
    assert abs(both[0] - both[1]) < 1e-12
    assert one >= 0.0 < other


def test_extragradient_and_optimistic_gradient_have_their_known_best_rates():
    steps = np.linspace(0.05, 1.2, 1151)
    extra = min(spectra.extragradient_rate(UNIT, step_size=s) for s in steps)
    optimistic = min(spectra.optimistic_rate(UNIT, step_size=s) for s in steps)
    assert extra == pytest.approx(math.sqrt(3.0) / 2.0, abs=1e-6)
    assert optimistic == pytest.approx(1.0 / math.sqrt(2.0), abs=1e-3)
    for s in (0.3, 0.9):
        assert spectra.extragradient_rate(UNIT, step_size=s) == pytest.approx(math.sqrt((1 - s * s) ** 2 + s * s))


def test_heavy_ball_has_its_known_rate_on_a_quadratic():
    low, high = 1.0, 25.0
    root = (math.sqrt(high) - math.sqrt(low)) / (math.sqrt(high) + math.sqrt(low))
    step = (2.0 / (math.sqrt(high) + math.sqrt(low))) ** 2
    assert spectra.rate([low, high], step_size=step, momentum=root**2) == pytest.approx(root, abs=1e-6)


def test_cooperation_asks_for_real_momentum_and_rotation_for_complex():
    assert spectra.recommend_argument([1.0, 3.0, 9.0])[0].argument == 0.0
    assert 0.0 < spectra.recommend_argument(UNIT)[0].argument < math.pi


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectra.rate([], step_size=0.1, momentum=0.5), "momentum_roots: got .* limit: one or more finite"),
        (lambda: spectra.rate([math.nan], step_size=0.1, momentum=0.5), "limit: one or more finite numbers"),
        (lambda: spectra.rate(UNIT, step_size=0.1, momentum=0.5, turns="each"), "turns: got 'each'"),
        (lambda: spectra.best_momentum([0.0]), "every eigenvalue is 0"),
        (lambda: spectra.best_momentum(UNIT, argument=-0.1), "argument -0.1, limit: radians from 0 to π"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()


@pytest.mark.parametrize("turns", ["simultaneous", "alternating"])
def test_small_steps_converge_on_bilinear_games_where_the_condition_says_so(turns):
    """Of random β, those aside at which a step of 1e-3 cannot tell."""
    rng = np.random.default_rng(5)
    drawn = rng.uniform(-1.0, 1.0, (400, 2)) @ [1.0, 1j]
    drawn = drawn[np.abs(drawn) < 0.97]
    spectrum = [1j] if turns == "simultaneous" else [1.0]
    rates = np.array([spectra.rate(spectrum, step_size=1e-3, momentum=beta, turns=turns) for beta in drawn])
    clear = np.abs(rates - 1.0) > 3e-8
    told = spectra.converges_for_small_steps(drawn, turns=turns)
    assert clear.sum() > 200
    assert np.array_equal(told[clear], rates[clear] < 1.0)
    assert 0.2 < told.mean() < 0.9


def test_small_steps_at_the_ends_of_the_region():
    def told(*momenta, turns="simultaneous"):
        return spectra.converges_for_small_steps(list(momenta), turns=turns).tolist()

    assert told(0.0, 0.9, -0.9, 0.99j, 1.01j) == [False, False, False, True, False]
    assert told(1j / np.sqrt(3.0) * (1.0 - 1e-9), 1j / np.sqrt(3.0) * (1.0 + 1e-9)) == [False, True]
    assert told(0.0, 0.9, -0.1, -0.9 + 0.1j, -1.1, turns="alternating") == [False, False, True, True, False]
    assert spectra.converges_for_small_steps(0.9j).shape == ()
    with pytest.raises(InvalidInput, match="turns: got 'both', limit"):
        spectra.converges_for_small_steps(0.9j, turns="both")
