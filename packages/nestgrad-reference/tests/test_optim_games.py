"""Momenta for games: the identities between them, each by arithmetic of its own, and their derivatives."""

import autograd
import numpy as np
import pytest

import nestgrad_reference as ng
from nestgrad import InvalidInput

optim = ng.optim
W = {"w": np.array([1.0, -0.5, 2.0]), "b": np.array(0.3)}
GRADIENTS = [
    {"w": g, "b": np.array(b)} for g, b in zip(np.random.default_rng(0).normal(size=(12, 3)), range(12), strict=True)
]
FLAT = np.array([np.append(g["w"], g["b"]) for g in GRADIENTS])
BETA = 0.8 * np.exp(0.7j)


def moves(rule, gradients=GRADIENTS):
    """The updates on these gradients (steps, 4); that of "b" last."""
    state, found = rule.init(W), []
    for g in gradients:
        updates, state = rule.update(g, state, W)
        found.append(np.append(updates["w"], updates["b"]))
    return np.array(found)


def test_without_a_modulus_it_is_gradient_descent_bit_for_bit():
    assert np.array_equal(moves(optim.complex_momentum(0.1, 0.0, 1.1)), moves(optim.sgd(0.1)))


def test_argument_zero_is_heavy_ball_bit_for_bit():
    assert np.array_equal(moves(optim.complex_momentum(0.1, 0.9, 0.0)), moves(optim.sgd(0.1, 0.9)))


def test_argument_pi_is_negative_momentum():
    found, wanted = moves(optim.complex_momentum(0.1, 0.5, np.pi)), moves(optim.sgd(0.1, -0.5))
    assert np.abs(found - wanted).max() < 1e-14
    assert np.abs(wanted - moves(optim.sgd(0.1, 0.5))).max() > 0.01


def test_the_conjugate_coefficient_moves_alike():
    found = moves(optim.complex_momentum(0.1, 0.8, 0.7))
    assert np.array_equal(found, moves(optim.complex_momentum(0.1, 0.8, -0.7)))
    assert np.abs(found - moves(optim.complex_momentum(0.1, 0.8, 0.6))).max() > 0.01


def test_the_real_form_is_the_complex_one():
    mu, wanted = np.zeros(4, complex), []
    for g in FLAT:
        mu = BETA * mu - g
        wanted.append((0.1 * mu).real)
    assert np.abs(moves(optim.complex_momentum(0.1, 0.8, 0.7)) - wanted).max() < 1e-14


def test_a_step_is_the_history_weighed_by_cosines():
    wanted = [-0.1 * sum(0.8**k * np.cos(0.7 * k) * FLAT[j - k] for k in range(j + 1)) for j in range(len(FLAT))]
    assert np.abs(moves(optim.complex_momentum(0.1, 0.8, 0.7)) - wanted).max() < 1e-14


def test_complex_momentum_is_the_mean_of_the_two_conjugates():
    traces, wanted = np.zeros((2, 4), complex), []
    for g in FLAT:
        traces = np.array([[BETA], [BETA.conjugate()]]) * traces - g
        wanted.append(0.1 / 2 * traces.sum(axis=0))
    assert np.abs(np.imag(wanted)).max() < 1e-15
    assert np.abs(moves(optim.complex_momentum(0.1, 0.8, 0.7)) - wanted).max() < 1e-14


def test_aggregated_momentum_is_the_mean_of_its_heavy_balls():
    wanted = np.mean([moves(optim.sgd(0.1, beta)) for beta in (0.0, 0.9, -0.3)], axis=0)
    assert np.abs(moves(optim.aggregated_momentum(0.1, [0.0, 0.9, -0.3])) - wanted).max() < 1e-14
    assert np.abs(moves(optim.aggregated_momentum(0.1, np.array([0.0, 0.9, -0.3]))) - wanted).max() < 1e-14


def test_linked_buffers_contain_aggregated_and_complex_momentum():
    aggregated = optim.recurrently_linked_momentum(np.diag([0.0, 0.9]), [1.0, 1.0], [0.05, 0.05])
    assert np.abs(moves(aggregated) - moves(optim.aggregated_momentum(0.1, [0.0, 0.9]))).max() < 1e-14
    turn = [[BETA.real, -BETA.imag], [BETA.imag, BETA.real]]
    complex_one = optim.recurrently_linked_momentum(turn, [1.0, 0.0], [0.1, 0.0])
    assert np.abs(moves(complex_one) - moves(optim.complex_momentum(0.1, 0.8, 0.7))).max() < 1e-14


def test_a_complex_learning_rate_is_an_output_for_each_part():
    alpha, mu, wanted = 0.1 - 0.04j, np.zeros(4, complex), []
    for g in FLAT:
        mu = BETA * mu - g
        wanted.append((alpha * mu).real)
    turn = [[BETA.real, -BETA.imag], [BETA.imag, BETA.real]]
    linked = optim.recurrently_linked_momentum(turn, [1.0, 0.0], [alpha.real, -alpha.imag])
    assert np.abs(moves(linked) - wanted).max() < 1e-14


def test_complex_adam_divides_complex_momentum_by_a_running_root():
    mu, v, wanted = np.zeros(4, complex), np.zeros(4), []
    for t, g in enumerate(FLAT, start=1):
        mu, v = BETA * mu - g, 0.9 * v + 0.1 * g**2
        wanted.append(0.1 * mu.real / (np.sqrt(v / (1.0 - 0.9**t)) + 0.01))
    assert np.abs(moves(optim.complex_adam(0.1, 0.8, 0.7, b2=0.9, eps=0.01)) - wanted).max() < 1e-14


def test_optimistic_steps_expect_the_last_change_again():
    wanted = -0.1 * (2.0 * FLAT - np.concatenate([FLAT[:1], FLAT[:-1]]))
    assert np.abs(moves(optim.optimistic(0.1)) - wanted).max() < 1e-15


@pytest.mark.parametrize(
    "rule",
    [
        lambda rate: optim.complex_momentum(rate, 0.8, 0.7),
        lambda rate: optim.complex_adam(rate, 0.8, 0.7),
        lambda rate: optim.aggregated_momentum(rate, [0.0, 0.9]),
        optim.optimistic,
    ],
)
def test_a_schedule_sets_the_rate_of_each_step(rule):
    pieces = optim.piecewise_constant([1], [0.1, 0.3])
    wanted = moves(rule(0.1))
    wanted[1:] *= 3.0
    assert np.abs(moves(rule(pieces)) - wanted).max() < 1e-14


def test_settings_may_differ_from_leaf_to_leaf():
    found = moves(optim.complex_momentum({"w": np.full(3, 0.1), "b": 0.2}, 0.8, {"w": 0.7, "b": 0.0}))
    assert np.array_equal(found[:, :3], moves(optim.complex_momentum(0.1, 0.8, 0.7))[:, :3])
    assert np.array_equal(found[:, 3], moves(optim.sgd(0.2, 0.8))[:, 3])


SETTINGS = {
    "complex_momentum": (lambda h: optim.complex_momentum(*h), [0.1, 0.8, 0.7]),
    "complex_adam": (lambda h: optim.complex_adam(*h), [0.1, 0.8, 0.7, 0.9, 0.01]),
    "aggregated_momentum": (lambda h: optim.aggregated_momentum(h[0], h[1:]), [0.1, 0.3, 0.9]),
    "recurrently_linked_momentum": (
        lambda h: optim.recurrently_linked_momentum(h[:4].reshape(2, 2), h[4:6], h[6:]),
        [0.5, -0.2, 0.3, 0.6, 1.0, 0.4, 0.1, 0.05],
    ),
    "optimistic": (lambda h: optim.optimistic(h[0]), [0.1]),
    "negative momentum": (lambda h: optim.sgd(*h), [0.1, -0.5]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_the_derivative_of_central_differences(name):
    """Of the sum of squared weights after four steps."""
    rule, settings = SETTINGS[name]

    def end(h):
        made, params = rule(h), W["w"]
        state = made.init({"w": params})
        for g in FLAT[:4, :3]:
            updates, state = made.update({"w": g}, state, {"w": params})
            params = params + updates["w"]
        return autograd.numpy.sum(params**2)

    found, settings = autograd.grad(end)(np.array(settings)), np.array(settings)
    for k, unit in enumerate(np.eye(settings.size)):
        difference = (end(settings + 1e-6 * unit) - end(settings - 1e-6 * unit)) / 2e-6
        assert found[k] == pytest.approx(difference, rel=1e-6, abs=1e-7), k


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: optim.aggregated_momentum(0.1, []), r"momenta \[\], limit: a list of 1 or more"),
        (lambda: optim.aggregated_momentum(0.1, 0.9), r"momenta 0\.9, limit: a list of 1 or more"),
        (lambda: optim.recurrently_linked_momentum([[1.0]], [1.0, 2.0], [1.0]), r"\(1, 1\), \(2,\), \(1,\).*limit"),
        (lambda: optim.recurrently_linked_momentum(0.9, 1.0, 1.0), r"\(\), \(\), \(\).*limit: \(K, K\)"),
    ],
)
def test_settings_of_another_shape_are_refused(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()
