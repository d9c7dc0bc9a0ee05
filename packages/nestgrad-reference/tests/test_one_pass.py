"""One-pass tuning in the reference: Clarke et al.'s closed form, spaces, clipping, rates a parameter."""

import math

import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

RNG = np.random.default_rng(7)
ROWS, COLUMNS, TERMS = 7, 3, 4
TRAIN = [(RNG.normal(size=(ROWS, COLUMNS)), RNG.normal(size=ROWS)) for _ in range(3)]
VALID = [(RNG.normal(size=(4, COLUMNS)), RNG.normal(size=4)) for _ in range(3)]
START = RNG.normal(size=COLUMNS)
INITIAL = {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.02}


def loss(params, hparams, batch):
    x, y = batch
    return 0.5 * anp.mean((x @ params["w"] - y) ** 2)


def optimizer(hparams):
    return ng.optim.sgd(hparams["lr"], hparams["momentum"], hparams["weight_decay"])


PROBLEM = ng.BilevelProblem(ng.WeightUpdate(loss, optimizer), loss)
SERIES = ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=1.0))


def spaces(**changed):
    plain = {"lr": ng.Log10(0.1), "momentum": ng.Logit(0.7), "weight_decay": ng.Log10(0.02)}
    return {**plain, **changed}


def tuner(hparams=None, *, every=1, problem=PROBLEM, outer_optimizer=None, throw=True):
    return ng.OnePass(
        problem,
        hparams=spaces() if hparams is None else hparams,
        every=every,
        method=SERIES,
        outer_optimizer=outer_optimizer or ng.optim.adam(0.05),
        throw=throw,
    )


def run(tuning, steps, state=None):
    """The state and info after steps on the first batches."""
    state, info = state or tuning.init({"w": START}), None
    for train, valid in zip(TRAIN[:steps], VALID[:steps], strict=True):
        state, info = tuning.step(state, train, valid)
    return state, info


def gradient(w, batch):
    x, y = batch
    return x.T @ (x @ w - y) / len(y)


def by_hand(rate, steps):
    """Weights, buffer and hypergradient in the leaves after steps at constant hyperparameters."""
    momentum, decay, ln10 = INITIAL["momentum"], INITIAL["weight_decay"], math.log(10.0)
    w, v, old_w, old_v = START, np.zeros(COLUMNS), START, np.zeros(COLUMNS)
    for batch in TRAIN[:steps]:
        old_w, old_v = w, v
        v = momentum * v + gradient(w, batch) + decay * w
        w = w - rate * v
    x = TRAIN[steps - 1][0]
    matrix = np.eye(COLUMNS) - (x.T @ x / ROWS + decay * np.eye(COLUMNS)) * rate  # columns scaled: (H + decay) diag(lr)
    p = sum(np.linalg.matrix_power(matrix, j) @ gradient(w, VALID[steps - 1]) for j in range(TERMS))
    each = {
        "lr": -ln10 * rate * p * v,
        "momentum": -momentum * (1.0 - momentum) * p * rate * old_v,
        "weight_decay": -ln10 * decay * p * rate * old_w,
    }
    return w, v, each


@pytest.mark.parametrize("steps", [1, 3])
def test_a_hyper_step_equals_the_closed_form(steps):
    state, info = run(tuner(every=steps), steps)
    w, v, each = by_hand(INITIAL["lr"], steps)
    np.testing.assert_allclose(state["params"]["w"], w, rtol=1e-13)
    np.testing.assert_allclose(state["opt_state"]["trace"]["w"], v, rtol=1e-13)
    for name, value in each.items():
        np.testing.assert_allclose(info.hypergradient.total[name], value.sum(), rtol=1e-12, atol=1e-15, err_msg=name)


def test_one_rate_a_parameter_has_one_hypergradient_a_parameter():
    rates = np.array([0.05, 0.1, 0.3])
    _, info = run(tuner(spaces(lr=ng.Log10({"w": rates})), every=3), 3)
    _, _, each = by_hand(rates, 3)
    np.testing.assert_allclose(info.hypergradient.total["lr"]["w"], each["lr"], rtol=1e-12)
    np.testing.assert_allclose(info.hypergradient.total["weight_decay"], each["weight_decay"].sum(), rtol=1e-12)


def test_per_parameter_spreads_the_initial_number_over_the_params():
    space = ng.per_parameter(ng.Log10(0.1, clip=(0.01, 1.0)), {"w": START, "b": np.zeros(())})
    assert space.clip == (0.01, 1.0)
    np.testing.assert_array_equal(space.initial["w"], np.full(COLUMNS, 0.1))
    assert space.initial["b"].shape == ()
    state = tuner(spaces(lr=ng.per_parameter(ng.Log10(0.1), {"w": START}))).init({"w": START})
    np.testing.assert_allclose(state["hparams"]["lr"]["w"], np.full(COLUMNS, -1.0), rtol=1e-15)


def test_per_parameter_of_an_array_is_refused():
    with pytest.raises(ng.InvalidInput, match=r"per_parameter.*ndarray.*limit.*Remedy"):
        ng.per_parameter(ng.Log10(np.ones(3)), {"w": START})


def test_the_first_step_knows_no_momentum():
    _, info = run(tuner(), 1)
    assert info.hypergradient.total["momentum"] == 0.0


def test_the_direct_term_is_included():
    tied = ng.BilevelProblem(PROBLEM.inner, lambda p, h, b: loss(p, h, b) + 3.0 * h["lr"])
    _, plain = run(tuner(), 1)
    _, found = run(tuner(problem=tied), 1)
    expected = 3.0 * math.log(10.0) * INITIAL["lr"]
    np.testing.assert_allclose(found.hypergradient.direct["lr"], expected, rtol=1e-13)
    np.testing.assert_allclose(found.hypergradient.total["lr"] - plain.hypergradient.total["lr"], expected, rtol=1e-12)


SPACES = {
    "Real": (ng.Real(0.3), 0.3, 1.0),
    "Log": (ng.Log(0.3), math.log(0.3), 0.3),
    "Log10": (ng.Log10(0.3), math.log10(0.3), 0.3 * math.log(10.0)),
    "Logit": (ng.Logit(0.3), math.log(0.3 / 0.7), 0.3 * 0.7),
    "Softplus": (ng.Softplus(0.3), math.log(math.expm1(0.3)), 1.0 - math.exp(-0.3)),
    "Bounded": (ng.Bounded(-1.0, 2.0, 0.3), math.log(1.3 / 1.7), 1.3 * 1.7 / 3.0),
}


@pytest.mark.parametrize("name", list(SPACES))
def test_a_space_sets_leaf_value_and_slope(name):
    space, leaf, slope = SPACES[name]

    def tilted(params, hparams, batch):
        return loss(params, hparams, batch) + hparams["x"] * anp.sum(params["w"])

    problem = ng.BilevelProblem(ng.WeightUpdate(tilted, lambda h: ng.optim.sgd(0.1)), loss)
    tuning = tuner({"x": space}, problem=problem)
    state = tuning.init({"w": START})
    np.testing.assert_allclose(state["hparams"]["x"], leaf, rtol=1e-14)
    np.testing.assert_allclose(tuning.values(state)["x"], 0.3, rtol=1e-14)
    natural = tuner({"x": ng.Real(0.3)}, problem=problem)
    totals = [run(one, 1)[1].hypergradient.total["x"] for one in (tuning, natural)]
    assert totals[1] != 0.0
    np.testing.assert_allclose(totals[0], slope * totals[1], rtol=1e-12)


def test_a_leaf_beyond_its_clip_is_set_to_the_end_after_the_step():
    far = ng.optim.sgd(30.0)
    clipped, _ = run(tuner(spaces(lr=ng.Log10(0.1, clip=(0.09, 0.11))), outer_optimizer=far), 1)
    free, info = run(tuner(outer_optimizer=far), 1)
    end = math.log10(0.09 if info.hypergradient.total["lr"] > 0.0 else 0.11)
    assert abs(free["hparams"]["lr"] + 1.0) > 1.0
    np.testing.assert_allclose(clipped["hparams"]["lr"], end, rtol=1e-14)
    np.testing.assert_array_equal(clipped["hparams"]["weight_decay"], free["hparams"]["weight_decay"])


def test_between_hyper_steps_nothing_is_tuned():
    tuning = tuner(every=3)
    state, info = run(tuning, 2)
    assert not info.tuned
    assert info.hypergradient.status is ng.Status.IDLE
    assert state["hparams"] == tuning.init({"w": START})["hparams"]
    assert math.isnan(info.hypergradient.outer_loss)


def test_a_step_leaves_its_state_as_it_was():
    tuning = tuner()
    state, _ = run(tuning, 1)
    before = [leaf.tobytes() for leaf in ng.tree.leaves([state["params"], state["opt_state"], state["hparams"]])]
    one, two = (tuning.step(state, TRAIN[1], VALID[1])[0] for _ in range(2))
    after = [leaf.tobytes() for leaf in ng.tree.leaves([state["params"], state["opt_state"], state["hparams"]])]
    assert before == after
    np.testing.assert_array_equal(one["params"]["w"], two["params"]["w"])


def test_a_nan_is_refused_and_with_throw_false_named():
    broken = (TRAIN[0][0], np.full(ROWS, np.nan))
    with pytest.raises(ng.NonFinite, match=r"training step 1.*limit.*Remedy"):
        tuner().step(tuner().init({"w": START}), broken, VALID[0])
    quiet = tuner(throw=False)
    _, info = quiet.step(quiet.init({"w": START}), broken, VALID[0])
    assert info.hypergradient.status is ng.Status.NONFINITE


def test_adam_equals_its_first_steps_by_hand():
    rule = ng.optim.adam(0.05)
    grads = [np.array([0.3, -2.0]), np.array([-0.1, 1.0])]
    state = rule.init(grads[0])
    first, state = rule.update(grads[0], state, grads[0])
    second, _ = rule.update(grads[1], state, grads[0])
    np.testing.assert_allclose(first, -0.05 * grads[0] / (np.abs(grads[0]) + 1e-8), rtol=1e-12)
    m = (0.1 * 0.9 * grads[0] + 0.1 * grads[1]) / (1.0 - 0.9**2)
    v = (0.001 * 0.999 * grads[0] ** 2 + 0.001 * grads[1] ** 2) / (1.0 - 0.999**2)
    np.testing.assert_allclose(second, -0.05 * m / (np.sqrt(v) + 1e-8), rtol=1e-12)


def test_an_outer_optimizer_without_update_is_refused():
    with pytest.raises(ng.UnsupportedOptimizer, match=r"float.*limit.*Remedy"):
        tuner(outer_optimizer=0.05)


def test_an_initial_value_outside_its_space_is_refused_by_name():
    with pytest.raises(ng.OutOfSpace, match=r"'lr/w'.*limit.*Remedy"):
        tuner(spaces(lr=ng.Log10({"w": np.array([0.1, -0.1, 0.1])}))).init({"w": START})
