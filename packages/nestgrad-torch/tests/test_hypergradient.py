"""Hypergradients of tensors: any scale, any mode of the caller, and no trace left."""

import pytest
import torch

import nestgrad_torch as ng

DENSE = ng.Implicit(solver=ng.Dense())


def inner(params, hparams, batch):
    """½wᵀHw - λᵀw, so that w* = H⁻¹λ."""
    return 0.5 * params["w"] @ batch @ params["w"] - hparams["shift"] @ params["w"]


def outer(params, hparams, batch):
    """vᵀw, so that the hypergradient is H⁻¹v."""
    return batch @ params["w"]


PROBLEM = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)


def curvature(dtype=torch.float64):
    return torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=dtype)


def hypergradient(slope, solver=None, **more):
    dtype = slope.dtype
    return ng.hypergradient(
        PROBLEM,
        {"w": torch.randn(3, dtype=dtype)},
        {"shift": torch.randn(3, dtype=dtype)},
        method=DENSE if solver is None else ng.Implicit(solver=solver),
        inner_batch=curvature(dtype),
        outer_batch=slope,
        **more,
    )


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e7])
def test_the_absolute_tolerance_is_in_the_units_of_the_outer_gradient(size):
    slope = size * torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    atol = 1e-4
    found = hypergradient(slope, ng.CG(rtol=0.0, atol=atol, max_steps=50))
    residual = float((curvature() @ found.total["shift"] - slope).norm())
    assert residual <= atol
    assert found.stats.residual_norm == pytest.approx(residual, rel=1e-2, abs=1e-12 * size)
    assert found.stats.steps == (0 if size < atol else 3)


@pytest.mark.parametrize("solver", [ng.Dense(), ng.CG(rtol=1e-5, max_steps=20)], ids=["dense", "cg"])
def test_outer_gradients_at_both_ends_of_the_dtype_are_solved(dtype, solver):
    exact = torch.tensor([0.3, -0.1, 0.3], dtype=torch.float64)
    for size in (torch.finfo(dtype).max, torch.finfo(dtype).tiny):
        found = hypergradient((curvature() @ exact * size).to(dtype), solver, throw=False)
        assert torch.allclose(found.total["shift"].double() / size, exact, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mode_of_the_caller_is_irrelevant(mode):
    slope, curve = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), curvature()
    start = {"w": torch.ones(3, dtype=torch.float64)}, {"shift": torch.ones(3, dtype=torch.float64)}
    with mode():
        gradients = torch.is_grad_enabled()
        found = ng.hypergradient(PROBLEM, *start, method=DENSE, inner_batch=curve, outer_batch=slope)
        assert torch.is_grad_enabled() == gradients
    assert torch.allclose(found.total["shift"], torch.linalg.solve(curve, slope))
    assert not found.total["shift"].is_inference()


def test_leaves_of_the_users_own_graph_are_left_alone():
    slope = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    base = torch.randn(3, dtype=torch.float64, requires_grad=True)
    params = {"w": torch.randn(3, dtype=torch.float64, requires_grad=True)}
    hparams = {"shift": 2.0 * base}
    found = ng.hypergradient(PROBLEM, params, hparams, method=DENSE, inner_batch=curvature(), outer_batch=slope)
    assert params["w"].requires_grad
    assert params["w"].grad is None
    assert hparams["shift"].grad_fn is not None
    assert not found.total["shift"].requires_grad
    hparams["shift"].sum().backward()
    assert torch.equal(base.grad, torch.full((3,), 2.0, dtype=torch.float64))


def test_floats_stand_for_tensors_of_the_params_dtype(dtype):
    def decayed(params, hparams, batch):
        return (0.5 * hparams["decay"] * params["w"] ** 2 - params["w"]).sum()

    problem = ng.BilevelProblem(inner=ng.Minimize(decayed), outer_loss=lambda p, h, b: p["w"].sum())
    params = {"w": torch.full((2,), 0.5, dtype=dtype)}
    found = [
        ng.hypergradient(problem, params, {"decay": x}, method=DENSE).total["decay"]
        for x in (2.0, torch.tensor(2.0, dtype=dtype))
    ]
    assert torch.equal(*found)
    assert found[0].dtype == dtype
    assert float(found[0]) == pytest.approx(-0.5)  # d/dλ of Σ 1/λ at λ = 2


def test_a_leaf_without_entries_beside_others_changes_nothing():
    slope = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    params = {"w": torch.ones(3, dtype=torch.float64), "none": torch.ones(0, 4, dtype=torch.float64)}
    hparams = {"shift": torch.ones(3, dtype=torch.float64)}
    found = ng.hypergradient(PROBLEM, params, hparams, method=DENSE, inner_batch=curvature(), outer_batch=slope)
    assert torch.allclose(found.total["shift"], torch.linalg.solve(curvature(), slope))


def test_complex_batches_are_constants():
    def fitted(params, hparams, batch):
        return ((batch * params["w"]).abs() ** 2).sum() / 2 - hparams["shift"] @ params["w"]

    problem = ng.BilevelProblem(inner=ng.Minimize(fitted), outer_loss=outer)
    wave, slope = torch.tensor([1 + 1j, 2.0, 1j], dtype=torch.complex128), torch.ones(3, dtype=torch.float64)
    start = {"w": torch.ones(3, dtype=torch.float64)}, {"shift": torch.ones(3, dtype=torch.float64)}
    found = ng.hypergradient(problem, *start, method=DENSE, inner_batch=wave, outer_batch=slope)
    assert torch.allclose(found.total["shift"], 1 / wave.abs() ** 2)


def test_an_empty_batch_is_named_nonfinite():
    def mean(params, hparams, batch):
        return ((batch @ params["w"]) ** 2).mean() * hparams["scale"]

    problem = ng.BilevelProblem(inner=ng.Minimize(mean), outer_loss=mean)
    empty = torch.ones(0, 3, dtype=torch.float64)
    with pytest.raises(ng.NonFinite, match="limit: finite"):
        ng.hypergradient(
            problem,
            {"w": torch.ones(3, dtype=torch.float64)},
            {"scale": 1.0},
            method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.1)),
            inner_batch=empty,
            outer_batch=empty,
        )


def test_the_symmetry_probe_uses_no_generator_of_the_users():
    update = ng.WeightUpdate(inner, lambda h: ng.optim.sgd(0.1))
    state = torch.get_rng_state()
    found = ng.hypergradient(
        ng.BilevelProblem(inner=update, outer_loss=outer),
        {"w": torch.ones(3, dtype=torch.float64)},
        {"shift": torch.ones(3, dtype=torch.float64)},
        method=ng.Implicit(solver=ng.CG(rtol=1e-10, max_steps=10)),
        inner_batch=curvature(),
        outer_batch=torch.ones(3, dtype=torch.float64),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert found.stats.asymmetry < 1e-12
    assert found.stats.products == 3 + found.stats.steps + 1
