"""Hypergradient descent and real-time tuning: closed forms, refusals, and the watch on explosions."""

import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

W, CURVE = np.array([1.0, -2.0]), np.array([1.0, 3.0])


def loss(params, hparams, batch):
    return 0.5 * anp.sum(CURVE * params["w"] ** 2)


def rate(hparams):
    return ng.optim.sgd(hparams["lr"])


def descent(hparams=None, *, inner=None, step_size=0.01, rule="additive", **rest):
    update = inner or ng.WeightUpdate(loss, rate)
    spaces = {"lr": ng.Log10(0.1)} if hparams is None else hparams
    return ng.HypergradientDescent(update, hparams=spaces, step_size=step_size, rule=rule, **rest)


def steps(tuner, count, *batches):
    state, infos = tuner.init({"w": W}), []
    for _ in range(count):
        state, info = tuner.step(state, *(batches or (None,)))
        infos.append(info)
    return state, infos


def test_the_rate_moves_in_its_leaf():
    state, infos = steps(descent(), 2)
    assert not infos[0].tuned
    assert infos[0].hypergradient.status is ng.Status.IDLE
    before, after = CURVE * W, CURVE * (W - 0.1 * CURVE * W)
    right = -(after @ before) * np.log(10.0) * 0.1
    np.testing.assert_allclose(infos[1].hypergradient.total["lr"], right, rtol=1e-13)
    np.testing.assert_allclose(state["hparams"]["lr"], -1.0 - 0.01 * right, rtol=1e-13)
    np.testing.assert_allclose(infos[1].hparams["lr"], 10.0 ** state["hparams"]["lr"], rtol=1e-13)
    moved = W - 0.1 * before
    np.testing.assert_allclose(infos[1].inner_loss, 0.5 * np.sum(CURVE * moved**2), rtol=1e-13)
    np.testing.assert_allclose(state["params"]["w"], moved - infos[1].hparams["lr"] * after, rtol=1e-13)
    assert infos[1].hypergradient.outer_loss == infos[1].inner_loss


def test_the_multiplicative_rule_moves_by_the_cosine():
    state, _ = steps(descent(rule="multiplicative", step_size=0.2), 2)
    before, after = CURVE * W, CURVE * (W - 0.1 * CURVE * W)
    cosine = after @ before / np.linalg.norm(after) / np.linalg.norm(before)
    np.testing.assert_allclose(10.0 ** state["hparams"]["lr"], 0.1 * (1.0 + 0.2 * cosine), rtol=1e-12)


def test_a_zero_gradient_leaves_the_rate_as_it_is():
    tuner = descent(rule="multiplicative", step_size=0.2)
    state = tuner.init({"w": np.zeros(2)})
    for _ in range(3):
        state, info = tuner.step(state, None)
    np.testing.assert_allclose(info.hparams["lr"], 0.1, rtol=1e-14)


def test_a_value_that_leaves_its_space_is_refused():
    with pytest.raises(ng.OutOfSpace, match=r"'lr'.*limit.*Remedy"):
        steps(descent(rule="multiplicative", step_size=1e3), 3)


def test_descent_clips_to_the_range():
    tuner = descent({"lr": ng.Log10(0.1, clip=(0.09, 0.12))}, step_size=50.0)
    _, infos = steps(tuner, 2)
    np.testing.assert_allclose(infos[1].hparams["lr"], 0.12, rtol=1e-12)


def test_descent_on_a_hyperparameter_of_the_loss_is_refused():
    inner = ng.WeightUpdate(lambda p, h, b: loss(p, h, b) * h["scale"], rate)
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"'scale'.*limit.*Remedy"):
        steps(descent({"lr": ng.Log10(0.1), "scale": ng.Real(1.0)}, inner=inner), 2)


@pytest.mark.parametrize("given", [{"step_size": 0.0}, {"step_size": "fast"}, {"rule": "newton"}])
def test_descent_refuses_bad_settings(given):
    with pytest.raises(ng.InvalidInput, match=r"limit.*Remedy"):
        descent(**given)


def test_descent_names_a_nan():
    inner = ng.WeightUpdate(lambda p, h, b: loss(p, h, b) * b, rate)
    tuner = descent(inner=inner)
    state, _ = tuner.step(tuner.init({"w": W}), 1.0)
    with pytest.raises(ng.NonFinite, match=r"training step 2.*limit.*Remedy"):
        tuner.step(state, np.nan)
    quiet = descent(inner=inner, throw=False)
    _, info = quiet.step(state, np.nan)
    assert info.hypergradient.status is ng.Status.NONFINITE


def test_a_descent_step_changes_nothing_that_it_was_given():
    tuner = descent()
    state, _ = steps(tuner, 1)
    before = [np.array(leaf) for leaf in ng.tree.leaves(state)]
    one, two = (tuner.step(state, None)[0] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(before, ng.tree.leaves(state), strict=True))
    np.testing.assert_array_equal(one["params"]["w"], two["params"]["w"])


def real_time(*, every=1, decay=1.0, hparams=None, outer=None, **rest):
    problem = ng.BilevelProblem(ng.WeightUpdate(loss, rate), outer or (lambda p, h, b: 0.5 * anp.sum(p["w"] ** 2)))
    return ng.RealTime(
        problem,
        hparams=hparams or {"lr": ng.Real(0.1)},
        every=every,
        decay=decay,
        outer_optimizer=ng.optim.sgd(1e-3),
        **rest,
    )


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_sensitivities_follow_their_recurrence(decay):
    tuner = real_time(every=3, decay=decay)
    state, infos = steps(tuner, 3, None, None)
    shrink, w, z = 1.0 - 0.1 * CURVE, W, np.zeros(2)
    for _ in range(3):
        z = decay * shrink * z - CURVE * w
        w = shrink * w
    np.testing.assert_allclose(state["sensitivities"][0, :2], z, rtol=1e-13)
    assert [info.tuned for info in infos] == [False, False, True]
    np.testing.assert_allclose(infos[2].hypergradient.total["lr"], w @ z, rtol=1e-13)
    np.testing.assert_allclose(state["hparams"]["lr"], 0.1 - 1e-3 * (w @ z), rtol=1e-13)


@pytest.mark.parametrize("given", [{"every": 0}, {"decay": 1.5}, {"decay": True}])
def test_real_time_refuses_bad_settings(given):
    with pytest.raises(ng.InvalidInput, match=r"limit.*Remedy"):
        real_time(**given)


def test_real_time_refuses_a_hyperparameter_that_nothing_uses():
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"'spare'.*limit.*Remedy"):
        steps(real_time(hparams={"lr": ng.Real(0.1), "spare": ng.Real(1.0)}), 1, None, None)


def test_real_time_names_a_nan():
    tuner = real_time(outer=lambda p, h, b: anp.sum(p["w"]) * b)
    with pytest.raises(ng.NonFinite, match=r"training step 1.*limit.*Remedy"):
        tuner.step(tuner.init({"w": W}), None, np.nan)
    quiet = real_time(outer=lambda p, h, b: anp.sum(p["w"]) * b, throw=False)
    _, info = quiet.step(quiet.init({"w": W}), None, np.nan)
    assert info.hypergradient.status is ng.Status.NONFINITE


def test_an_outer_optimizer_without_update_is_refused():
    problem = ng.BilevelProblem(ng.WeightUpdate(loss, rate), loss)
    with pytest.raises(ng.UnsupportedOptimizer, match=r"RealTime.*float.*limit.*Remedy"):
        ng.RealTime(problem, hparams={"lr": ng.Real(0.1)}, every=1, decay=1.0, outer_optimizer=0.1)


def test_a_hypergradient_out_of_proportion_is_warned_of():
    tuner = real_time(outer=lambda p, h, b: 0.5 * b * anp.sum(p["w"] ** 2))
    state = tuner.init({"w": W})
    for _ in range(6):
        state, _ = tuner.step(state, None, 1.0)
    with pytest.warns(ng.ExplodingHypergradient, match=r"training step 7.*limit.*Remedy"):
        tuner.step(state, None, 1e6)
