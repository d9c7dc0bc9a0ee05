"""The derivative of exponents in the point, against differences of exponents."""

import autograd.numpy as anp
import numpy as np
import pytest
from moved_points import POINT, curved, differences, packed, spectrum, unpacked

import nestgrad_reference as ng

tree, optim = ng.tree, ng.optim
METHODS = {
    "largest": ng.LargestExponent(),
    "refined": ng.ExponentSpectrum(num_exponents=2, refinements=80),
    "all": ng.ExponentSpectrum(),
}
GIVEN = {"w": np.array([[0.3, 0.4], [1.0, -0.2]]), "count": 0, "rest": [np.array([0.5, 0.1]), np.zeros((2, 2))]}


def chosen(exponents, objective):
    match objective:
        case "largest":
            return exponents.max()
        case "smallest":
            return exponents.min()
        case "sum":
            return exponents.sum()
        case "entropy":
            return exponents[exponents > 0.0].sum()


def require_close(found, wanted, limit=1e-7):
    assert np.abs(found - wanted).max() < limit * (1.0 + np.abs(wanted).max())


@pytest.mark.parametrize("objective", ["largest", "smallest", "sum", "entropy"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [1, 6])
def test_it_is_that_by_differences_where_directions_are_sought_anew(steps, name, objective):
    """Also for singular vectors, as these do not matter to first order; for all exponents they are the unit ones."""
    method = METHODS[name]
    found = ng.lyapunov_gradient(curved, POINT, num_steps=steps, objective=objective, method=method)
    wanted = differences(
        lambda x: chosen(spectrum(curved, unpacked(x), steps, method=method), objective), packed(POINT), step=1e-3
    )
    assert float(found.value) == pytest.approx(chosen(found.found.exponents, objective), abs=1e-14)
    assert np.any(wanted != 0.0) or found.value == 0.0
    require_close(packed(found.gradient), wanted)


@pytest.mark.parametrize("method", [ng.TunedDirection(), ng.TunedDirection(at="first step")])
def test_tuned_directions_are_constants(method):
    """Of every step by itself these are singular vectors, so they may move; that of the first is held."""
    found = ng.lyapunov_gradient(curved, POINT, num_steps=4, method=method)
    if method.at == "every step":
        wanted = differences(lambda x: spectrum(curved, unpacked(x), 4, method=method)[0], packed(POINT), step=1e-3)
    else:
        held = found.found.directions
        wanted = differences(lambda x: spectrum(curved, unpacked(x), 4, directions=held)[0], packed(POINT), step=1e-3)
    require_close(packed(found.gradient), wanted)


@pytest.mark.parametrize("objective", ["largest", "smallest", "sum"])
def test_given_directions_are_constants(objective):
    found = ng.lyapunov_gradient(curved, POINT, num_steps=5, objective=objective, directions=GIVEN)
    wanted = differences(
        lambda x: chosen(spectrum(curved, unpacked(x), 5, directions=GIVEN), objective), packed(POINT), step=1e-3
    )
    require_close(packed(found.gradient), wanted)
    assert found.found.products == 10
    assert found.products == 30


def test_it_has_the_points_form():
    found = ng.lyapunov_gradient(curved, POINT, num_steps=2)
    assert set(found.gradient) == set(POINT)
    assert found.gradient["count"] == 0.0
    assert found.gradient["rest"][1].shape == (2,)
    assert not found.gradient["rest"][1].any()
    assert found.found.end["count"] == 2


def test_descent_of_one_weight():
    """λ = ln |1 - α L''(w)| after one step."""
    play = ng.Play(ng.Game({"w": lambda p, _: p["w"] ** 4 / 4.0 - p["w"] ** 2 / 2.0}), optimizer=optim.sgd(0.1))
    found = ng.lyapunov_gradient(play.update, play.init({"w": np.array(0.3)}), num_steps=1)
    growth = 1.0 - 0.1 * (3.0 * 0.09 - 1.0)
    assert float(found.value) == pytest.approx(np.log(growth), abs=1e-14)
    assert found.gradient["players"]["w"] == pytest.approx(-0.1 * 6.0 * 0.3 / growth, abs=1e-14)


def test_all_of_play_is_differentiated_in():
    """Momentum, in turn, and LOLA: by differences in players and in their optimizers' states."""
    game = ng.Game({"x": lambda p, _: anp.sin(p["x"] * p["y"]) + p["x"] ** 4, "y": lambda p, _: -p["x"] * p["y"] ** 2})
    play = ng.Play(game, optimizer=optim.sgd(0.2, 0.8), direction=ng.LOLA(look_ahead=0.3), turns="alternating")
    state, _ = play.step(play.init({"x": np.array(0.8), "y": np.array(-0.6)}))

    def state_of(v):
        held = {"x": {"trace": v[2]}, "y": {"trace": v[3]}}
        return {"players": {"x": v[0], "y": v[1]}, "opt_state": held, "step": 1}

    def vector_of(at):
        traces = [at["opt_state"][name]["trace"] for name in ("x", "y")]
        return np.array([at["players"]["x"], at["players"]["y"], *traces], float)

    method = ng.LargestExponent()
    found = ng.lyapunov_gradient(play.update, state, num_steps=2, method=method)
    wanted = differences(lambda v: spectrum(play.update, state_of(v), 2, method=method)[0], vector_of(state), step=1e-3)
    require_close(vector_of(found.gradient), wanted)


def test_at_ties_it_is_that_of_the_first():
    def twice(x):
        return x**2  # at (1, 1) both have ln 2

    for objective in ("largest", "smallest"):
        found = ng.lyapunov_gradient(twice, np.ones(2), num_steps=1, objective=objective)
        assert found.gradient == pytest.approx([1.0, 0.0])


def test_what_is_wiped_out_spoils_only_what_it_is_part_of():
    def halt(x):
        return anp.array([x[0] ** 2, 1.0, 0.3 * anp.sin(x[2])])

    start = np.array([0.9, 0.4, 0.2])
    found = ng.lyapunov_gradient(halt, start, num_steps=1)
    assert found.found.exponents == pytest.approx([np.log(1.8), -np.inf, np.log(0.3 * np.cos(0.2))])
    assert found.gradient == pytest.approx([1.0 / 0.9, 0.0, 0.0])
    entropy = ng.lyapunov_gradient(halt, start, num_steps=1, objective="entropy")
    assert entropy.gradient == pytest.approx([1.0 / 0.9, 0.0, 0.0])
    for objective in ("sum", "smallest"):
        with pytest.raises(ng.NonFinite, match=f"the {objective} of the exponents: 1 of 1 entries"):
            ng.lyapunov_gradient(halt, start, num_steps=1, objective=objective)
        kept = ng.lyapunov_gradient(halt, start, num_steps=1, objective=objective, throw=False)
        assert kept.value == -np.inf


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_derivative_that_is_not_finite_is_named():
    def bent(x):
        return 2.0 * x + anp.abs(x) ** 1.5  # its second derivative is infinite at 0

    with pytest.raises(ng.NonFinite, match="lyapunov_gradient: derivative of the largest of the exponents: 1 of 1"):
        ng.lyapunov_gradient(bent, np.array([0.0]), num_steps=1)
    kept = ng.lyapunov_gradient(bent, np.array([0.0]), num_steps=1, throw=False)
    assert kept.value == pytest.approx(np.log(2.0))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: ng.lyapunov_gradient(curved, POINT, num_steps=2, objective="mean"),
            "objective 'mean', limit",
        ),
        (lambda: ng.lyapunov_gradient(curved, POINT, num_steps=1.5), "lyapunov_gradient: num_steps=1.5, limit: an int"),
        (lambda: ng.lyapunov_gradient(curved, {"n": 1}, num_steps=1), "lyapunov_gradient: point has 0 floating leaves"),
    ],
)
def test_what_is_wrong_is_named(made, message):
    with pytest.raises(ng.InvalidInput, match=message):
        made()
