"""Arguments that are refused, and the trees that pass."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng

_spec = importlib.util.spec_from_file_location("quadratic_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
N = problems.N
M = problems.M
N = problems.N
M = problems.M
quadratic_loss = problems.quadratic_loss
quadratic_outer = problems.quadratic_outer
per_weight_sgd = problems.per_weight_sgd
QUADRATIC = problems.QUADRATIC
solved = problems.solved
call = problems.call


def test_dense_refuses_more_weights_than_its_limit():
    with pytest.raises(ng.InvalidInput, match=r"4 weights, limit max_params=3"):
        solved(ng.Dense(max_params=3), "float32")


def test_wrong_input_is_refused_by_name():
    half, vector = jnp.zeros(M, jnp.float16), jnp.zeros(M)
    with pytest.raises(ng.InvalidInput, match=r"params\['w'\]: got int32"):
        call(params={"w": jnp.zeros(N, jnp.int32)})
    with pytest.raises(ng.InvalidInput, match="params: 0 leaves"):
        call(params={})
    with pytest.raises(ng.InvalidInput, match="hparams: 0 leaves"):
        call(hparams={})
    with pytest.raises(ng.InvalidInput, match=r"inner_batch\['name'\]: got str"):
        call(inner_batch={"name": "train"})
    for value in (3, True, jnp.zeros(M, jnp.int32), np.array([True]), 1j):
        with pytest.raises(ng.NonDifferentiableHyperparameter, match=r"hparams\['b/0'\]"):
            call(hparams={"a": vector, "b": (value,)})
    with pytest.raises(ng.DtypeMismatch, match=r"hparams\['a'\] is float16, limit: float32 as params\['w'\]"):
        call(hparams={"a": half})
    with pytest.raises(ng.DtypeMismatch, match=r"outer_batch is float16"):
        call(outer_batch=half)
    with pytest.raises(ng.DtypeMismatch, match=r"params\['b'\] is float16"):
        call(params={"a": vector, "b": half})
    with pytest.raises(ng.UnsupportedSpec, match=r"limit: .*Implicit"):
        ng.hypergradient(QUADRATIC, vector, vector, method=ng.Identity())
    with pytest.raises(ng.InvalidInput, match="problem is not hashable"):
        call(inner=_Unhashable())
    with pytest.raises(ng.InvalidInput, match="inner problem: got int"):
        ng.hypergradient(
            ng.BilevelProblem(inner=3, outer_loss=quadratic_outer),
            vector,
            vector,
            method=ng.Implicit(solver=ng.Dense()),
        )


class _Unhashable:
    __hash__ = None

    def __call__(self, params, hparams, batch):
        return quadratic_loss(params, hparams, batch)


def test_float64_that_jit_would_cut_is_refused_and_names_the_switch():
    for changed in ({"params": {"w": np.zeros(N)}}, {"hparams": {"a": np.zeros(M)}}, {"outer_batch": [np.zeros(2)]}):
        with pytest.raises(ng.DtypeMismatch, match="is float64, limit: float32 while jax_enable_x64 is off"):
            call(**changed)


def test_a_loss_that_is_no_scalar_is_refused_with_its_level():
    with pytest.raises(ng.NonScalarLoss, match=r"inner loss returned shape \(4,\) of float32"):
        call(inner=lambda p, h, b: p["w"] * h["a"].sum())
    with pytest.raises(ng.NonScalarLoss, match=r"outer_loss returned shape \(\) of int32"):
        call(outer=lambda p, h, b: (p["w"].sum() > 0).astype(jnp.int32))
    with pytest.raises(ng.NonScalarLoss, match="outer_loss returned float"):
        call(outer=lambda p, h, b: 1.0)


def test_an_optimizer_that_is_no_transformation_is_refused():
    with pytest.raises(ng.UnsupportedOptimizer, match="returned float"):
        call(optimizer=lambda h: 0.1)


CUTS = {
    "stop_gradient": jax.lax.stop_gradient,
    "integer cast": lambda x: x.astype(jnp.int32).astype(x.dtype),
    "round": jnp.round,
    "comparison": lambda x: jnp.where(x > 0, 1.0, 2.0),
    "unused": jnp.zeros_like,
    "jitted stop_gradient": jax.jit(jax.lax.stop_gradient),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("optimizer", [None, per_weight_sgd], ids=["minimize", "weight update"])
def test_a_disconnected_hyperparameter_is_named(cut, optimizer):
    def loss(params, hparams, batch):
        scale = jax.jit(lambda h: (h["a"], cut(h["gain"])))(hparams)[1]
        return quadratic_loss(params, hparams, batch) * scale

    hparams = {"a": jnp.ones(M), "gain": jnp.float32(2.0)}
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"hparams\['gain'\]: 0 differentiable paths"):
        call(inner=loss, optimizer=optimizer, hparams=hparams)


def test_a_path_through_either_loss_connects_even_where_its_value_is_zero():
    hparams = {"a": jnp.ones(M), "gain": jnp.float32(2.0)}
    with pytest.warns(ng.ZeroHypergradient, match=r"hparams\['gain'\]: hypergradient exactly 0"):
        direct = call(outer=lambda p, h, b: quadratic_outer(p, h, b) + 0.0 * h["gain"], hparams=hparams)
    with pytest.warns(ng.ZeroHypergradient, match=r"hparams\['gain'\]"):
        indirect = call(
            inner=lambda p, h, b: quadratic_loss(p, h, b) + 0.0 * (h["gain"] * p["w"]).sum(), hparams=hparams
        )
    assert float(direct.total["gain"]) == float(indirect.total["gain"]) == 0.0


def test_any_pytree_passes_with_its_structure_and_empty_places():
    def loss(params, hparams, batch):
        (w, none), tail = params["z"], params["a"][0]
        assert none is None
        return (hparams[0]["r"] * (w**2).sum() + (tail - hparams[1]) ** 2 + (tail**2).sum()).astype("float32")

    params = {"z": (jnp.ones(2, "float32"), None), "a": [jnp.asarray(0.5, "float32")]}
    hparams = ({"r": 0.7, "none": None}, jnp.asarray(2.0, "float32"))
    problem = ng.BilevelProblem(inner=ng.Minimize(loss), outer_loss=loss)
    found = ng.hypergradient(problem, params, hparams, method=ng.Implicit(solver=ng.Dense()))
    assert jax.tree.structure(found.total) == jax.tree.structure(hparams)
    assert {x.dtype for x in jax.tree.leaves(found.total)} == {jnp.dtype("float32")}
