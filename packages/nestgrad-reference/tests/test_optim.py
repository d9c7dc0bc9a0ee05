"""The reference's weight updates against numbers worked out by hand, and their derivatives against differences."""

import autograd
import numpy as np
import pytest

import nestgrad_reference as ng
from nestgrad import InvalidInput

optim = ng.optim
G = [np.array([0.5, -2.0, 0.1]), np.array([-1.0, 0.3, 0.2]), np.array([0.7, 0.7, -0.4])]
W = np.array([1.0, -0.5, 2.0])


def moved(rule, gradients=G):
    """The params after these gradients."""
    params, state = {"w": W}, rule.init({"w": W})
    for g in gradients:
        updates, state = rule.update({"w": g}, state, params)
        params = {"w": params["w"] + updates["w"]}
    return params["w"]


def test_dampening_begins_at_the_second_step():
    v1 = G[0]
    v2 = 0.9 * v1 + 0.7 * G[1]
    assert np.allclose(moved(optim.sgd(0.1, 0.9, 0.0, 0.3), G[:2]), W - 0.1 * v1 - 0.1 * v2)


def test_nesterov_looks_one_momentum_ahead():
    v1 = G[0]
    v2 = 0.9 * v1 + G[1]
    right = W - 0.1 * (G[0] + 0.9 * v1) - 0.1 * (G[1] + 0.9 * v2)
    assert np.allclose(moved(optim.sgd(0.1, 0.9, nesterov=True), G[:2]), right)


def test_adams_first_step_is_the_sign_but_for_eps():
    assert np.allclose(moved(optim.adam(0.1, eps=0.01), G[:1]), W - 0.1 * G[0] / (np.abs(G[0]) + 0.01))


def test_decoupled_decay_shrinks_the_weights_beside_the_step():
    plain, decayed = moved(optim.adam(0.1), G[:1]), moved(optim.adamw(0.1, weight_decay=0.2), G[:1])
    assert np.allclose(decayed, plain - 0.1 * 0.2 * W)


def test_rmsprop_divides_by_a_running_root():
    v = 0.1 * G[0] ** 2
    first = W - 0.1 * G[0] / (np.sqrt(v) + 0.01)
    v = 0.9 * v + 0.1 * G[1] ** 2
    assert np.allclose(moved(optim.rmsprop(0.1, 0.9, 0.01), G[:2]), first - 0.1 * G[1] / (np.sqrt(v) + 0.01))


def test_centered_rmsprop_divides_by_the_deviation():
    v, a = 0.1 * G[0] ** 2, 0.1 * G[0]
    right = W - 0.1 * G[0] / (np.sqrt(v - a**2) + 0.01)
    assert np.allclose(moved(optim.rmsprop(0.1, 0.9, 0.01, centered=True), G[:1]), right)


def test_adagrads_rate_falls_from_the_second_step():
    first = W - 0.1 * G[0] / (np.sqrt(0.5 + G[0] ** 2) + 0.01)
    right = first - 0.1 / 1.2 * G[1] / (np.sqrt(0.5 + G[0] ** 2 + G[1] ** 2) + 0.01)
    assert np.allclose(moved(optim.adagrad(0.1, 0.01, lr_decay=0.2, initial_accumulator=0.5), G[:2]), right)


def test_lion_steps_by_a_sign_of_the_moment_before():
    first = W - 0.1 * np.sign(0.2 * G[0]) - 0.1 * 0.3 * W
    m = 0.1 * G[0]
    right = first - 0.1 * np.sign(0.8 * m + 0.2 * G[1]) - 0.1 * 0.3 * first
    assert np.allclose(moved(optim.lion(0.1, 0.8, 0.9, 0.3), G[:2]), right)


def test_clipping_scales_by_the_global_norm_and_only_beyond_it():
    norm = np.linalg.norm(G[0])
    assert np.allclose(moved(optim.clipped(optim.sgd(1.0), 0.5), G[:1]), W - G[0] * 0.5 / (norm + 1e-6))
    assert np.array_equal(moved(optim.clipped(optim.sgd(1.0), 10.0), G[:1]), W - G[0])


def test_pieces_change_at_their_boundaries():
    rate = optim.piecewise_constant([2, 4], [0.1, 0.2, 0.3])
    assert [float(rate(count)) for count in range(6)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_a_cosine_falls_from_its_first_value_to_alpha_times_it_and_stays():
    rate = optim.cosine(0.5, 4, alpha=0.1)
    assert np.allclose([rate(count) for count in (0, 2, 4, 9)], [0.5, 0.275, 0.05, 0.05])


def test_a_schedule_is_followed_step_by_step():
    right = W - 0.1 * G[0] - 0.2 * G[1]
    assert np.allclose(moved(optim.sgd(optim.piecewise_constant([1], [0.1, 0.2])), G[:2]), right)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: optim.sgd(0.1, 0.9, dampening=0.1, nesterov=True), r"nesterov=True with dampening 0\.1, limit: 0"),
        (lambda: optim.piecewise_constant([1], [0.1]), "1 values for boundaries \\[1\\], limit: 2 values"),
        (lambda: optim.piecewise_constant([2, 2], [0.1, 0.2, 0.3]), "ascending boundaries"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()


SETTINGS = {
    "sgd": (lambda h: optim.sgd(h[0], h[1], h[2], h[3]), [0.1, 0.9, 0.05, 0.2]),
    "nesterov": (lambda h: optim.sgd(h[0], h[1], h[2], nesterov=True), [0.1, 0.9, 0.05]),
    "adam": (lambda h: optim.adam(*h), [0.1, 0.8, 0.9, 0.01, 0.05]),
    "adamw": (lambda h: optim.adamw(*h), [0.1, 0.8, 0.9, 0.01, 0.05]),
    "rmsprop": (lambda h: optim.rmsprop(*h), [0.1, 0.9, 0.01, 0.5, 0.05]),
    "centered": (lambda h: optim.rmsprop(*h, centered=True), [0.1, 0.9, 0.01, 0.5, 0.05]),
    "adagrad": (lambda h: optim.adagrad(*h, initial_accumulator=0.1), [0.1, 0.01, 0.05, 0.2]),
    "lion": (lambda h: optim.lion(h[0], 0.8, 0.9, h[1]), [0.1, 0.05]),
    "clipped": (lambda h: optim.clipped(optim.sgd(h[0], h[1]), h[2]), [0.1, 0.9, 0.5]),
    "cosine": (lambda h: optim.sgd(optim.cosine(h[0], h[1], h[2])), [0.1, 7.0, 0.2]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_the_derivative_of_central_differences(name):
    """Of the weights after three steps; differences of 1e-6 in float64 are good to about 1e-9."""
    rule, settings = SETTINGS[name]
    settings = np.array(settings)
    exact = autograd.jacobian(lambda h: moved(rule(h)))(settings)
    for k in range(settings.size):
        step = 1e-6 * max(1.0, abs(settings[k])) * np.eye(settings.size)[k]
        difference = (moved(rule(settings + step)) - moved(rule(settings - step))) / (2.0 * step[k])
        assert np.allclose(exact[:, k], difference, rtol=1e-6, atol=1e-7), (name, k)


def test_a_zero_gradient_has_the_derivative_of_its_limit():
    """Adam's first step is g / (|g| + eps), whose derivative at zero is 1 / eps."""
    rule = optim.adam(0.1, eps=0.01)

    def step(g):
        return rule.update({"w": g}, rule.init({"w": W}), {"w": W})[0]["w"]

    found = autograd.jacobian(step)(np.array([0.0, 0.0, 0.3]))
    assert np.allclose(np.diag(found)[:2], -0.1 / 0.01)
    assert np.isfinite(autograd.jacobian(autograd.jacobian(step))(np.zeros(3))).all()
