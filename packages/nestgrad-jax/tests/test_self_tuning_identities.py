"""Self-tuning where the answer is known in closed form: scales, bent and affine best responses."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

_spec = importlib.util.spec_from_file_location(
    "response_problems", pathlib.Path(__file__).with_name("test_responses.py")
)
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
AFFINE, BENT, EXACT, RNG = problems.AFFINE, problems.BENT, problems.EXACT, problems.RNG
close, same, best_affine, one = problems.close, problems.same, problems.best_affine, problems.one


def straight(params, hparams, batch):
    """½ (w - λ)², whose outer loss rises by ½ a σ² where the response is constant."""
    return 0.5 * (params["w"] - hparams["x"]) ** 2


def curved(params, hparams, batch):
    return 0.5 * 4.0 * hparams["x"] ** 2 + 0.0 * params["w"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("entropy", "sign"), [(0.09, 0), (0.0, -1), (10.0, 1), (None, None)])
def test_the_scale_rests_where_the_entropy_has_it(entropy, sign):
    made = ng.SelfTuning(
        ng.BilevelProblem(ng.Minimize(straight), curved),
        hparams={"x": ng.Real(0.0)},
        optimizer=optim.sgd(0.1),
        outer_optimizer=optax.adamw(0.01),
        objective="centred",
        samples=2,
        scale=0.15,  # √(0.09 / 4)
        entropy=entropy,
        every=1,
    )
    state = made.init({"w": jnp.asarray(0.0)}, key=0)
    signs = jnp.asarray([[1.0], [-1.0]])
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic needs it
        after, info = made.step(state, one("float64"), one("float64"), noise=(signs, signs))
    np.testing.assert_allclose(info.hypergradient.outer_loss, 0.5 * 4.0 * 0.15**2, rtol=1e-12)
    if sign is None:
        same(after["scales"], state["scales"])
        assert set(after["outer_opt_state"][0].mu) == {"hparams", "scales"}
        assert not after["outer_opt_state"][0].mu["scales"].any()
        return
    slope = float(after["outer_opt_state"][0].mu["scales"][0]) / 0.1
    np.testing.assert_allclose(slope, (4.0 * 0.15 - entropy / 0.15) * -np.expm1(-0.15), rtol=1e-9, atol=1e-14)
    assert abs(slope) < 1e-14 if sign == 0 else np.sign(slope) == -sign


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("objective", ["sampled", "centred"])
def test_where_the_best_response_bends_centring_takes_the_bias_away(objective):
    made = ng.SelfTuning(
        BENT,
        hparams={"x": ng.Real(0.7)},
        optimizer=optim.sgd(0.3),
        outer_optimizer=optim.sgd(0.1),
        objective=objective,
        samples=2,
        scale=0.2,
        warmup_steps=10**6,
    )
    signs = jnp.asarray([[1.0], [-1.0]])
    noise = (signs, None)
    begin = made.init({"w": jnp.asarray(0.2)}, key=3)
    trained, _ = jax.lax.scan(
        lambda state, _: (made.step(state, one("float64"), one("float64"), noise=noise)[0], None), begin, length=4000
    )
    phi = trained["params"]
    slope = float(phi["gates"]["w"][0, 0] * phi["weight"]["w"])
    np.testing.assert_allclose(slope, 1.4, rtol=1e-9)
    np.testing.assert_allclose(
        made.response_params(trained)["w"], 0.49 + (0.04 if objective == "sampled" else 0.0), rtol=1e-9
    )
    assert trained["hparams"]["x"] == 0.7


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("objective", ["sampled", "centred"])
def test_where_the_best_response_is_affine_the_hypergradient_is_the_implicit_one(objective):
    made = ng.SelfTuning(
        AFFINE,
        hparams={"a": ng.Real(0.4), "b": ng.Real(-1.1)},
        optimizer=optim.sgd(0.1),
        outer_optimizer=optim.sgd(0.1),
        objective=objective,
        samples=4,
        every=1,
    )
    exact, leaves = best_affine(), np.array([0.4, -1.1])
    there = exact["bias"]["w"] + exact["weight"]["w"] @ leaves
    base = exact["bias"]["w"] if objective == "sampled" else there
    phi = {"bias": {"w": base}, "weight": {"w": jnp.ones(3)}, "gates": exact["weight"]}
    state = {**made.init({"w": jnp.zeros(3)}, key=0), "params": phi}
    half = RNG.normal(size=(2, 2))
    noise = np.concatenate([half, -half])
    batch, other = jnp.asarray(1.5), jnp.asarray(0.5)
    after, info = made.step(state, batch, other, noise=(noise, noise))
    close(after["params"], phi, rtol=1e-12)
    expected = ng.hypergradient(
        AFFINE, {"w": there}, state["hparams"], method=EXACT, inner_batch=batch, outer_batch=other
    )
    for part in ("total", "direct", "indirect"):
        close(getattr(info.hypergradient, part), getattr(expected, part), rtol=1e-12)
    found = ng.hypergradient(
        AFFINE,
        made.response_weights(state),
        state["hparams"],
        method=made.response,
        inner_batch=batch,
        outer_batch=other,
    )
    close(found.total, expected.total, rtol=1e-12)
