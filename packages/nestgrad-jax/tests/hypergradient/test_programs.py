"""The compiled program: compiled once, the same under every transformation, in the dtype given."""

import importlib.util
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng

_spec = importlib.util.spec_from_file_location("quadratic_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
M = problems.M
M = problems.M
SYMMETRIC_INDEFINITE = problems.SYMMETRIC_INDEFINITE
quadratic_loss = problems.quadratic_loss
quadratic_outer = problems.quadratic_outer
QUADRATIC = problems.QUADRATIC
point = problems.point
solved = problems.solved


def test_a_problem_is_compiled_once_for_its_shapes():
    traces = []

    def loss(params, hparams, batch):
        traces.append(None)
        return quadratic_loss(params, hparams, batch)

    problem = ng.BilevelProblem(inner=ng.Minimize(loss), outer_loss=quadratic_outer)
    params, hparams, inner, outer, _ = point("float32")
    counts = []
    for factor in (1.0, 2.0, 3.0):
        ng.hypergradient(
            problem,
            {"w": params["w"] * factor},
            hparams,
            method=ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.1)),
            inner_batch=inner,
            outer_batch=outer,
        )
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


def test_nothing_passed_in_changes():
    params, hparams, inner, outer, _ = jax.tree.map(np.array, point("float32"))
    before = jax.tree.map(np.array, (params, hparams, inner, outer))
    method = ng.Implicit(solver=ng.Neumann(num_terms=3, step_size=0.1))
    first, second = (
        ng.hypergradient(QUADRATIC, params, hparams, method=method, inner_batch=inner, outer_batch=outer)
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, (params, hparams, inner, outer), before)
    jax.tree.map(np.testing.assert_array_equal, first.total, second.total)


@pytest.mark.parametrize("solver", [ng.CG(rtol=1e-5, max_steps=9), ng.Neumann(num_terms=3, step_size=0.1), ng.Dense()])
def test_under_jit_vmap_and_scan_it_gives_the_numbers_of_the_plain_call(solver):
    params, hparams, inner, outer, _ = point("float32")
    many = jnp.stack([hparams["a"], 2.0 * hparams["a"]])

    def total(a):
        found = ng.hypergradient(
            QUADRATIC, params, {"a": a}, method=ng.Implicit(solver=solver), inner_batch=inner, outer_batch=outer
        )
        return found.total["a"], found.status

    plain = [total(a) for a in many]
    runs = {
        "jit": [jax.jit(total)(a) for a in many],
        "vmap": list(zip(*jax.vmap(total)(many), strict=True)),
        "scan": list(zip(*jax.lax.scan(lambda carry, a: (carry, total(a)), None, many)[1], strict=True)),
    }
    for name, found in runs.items():
        for (left, status), (right, expected) in zip(found, plain, strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-5, err_msg=name)
            assert status.dtype == jnp.int32
            assert int(status) == expected


def test_under_jit_a_failure_is_a_status_and_no_error():
    @jax.jit
    def run(a):
        params, _, inner, outer, _ = point("float32", SYMMETRIC_INDEFINITE)
        return ng.hypergradient(
            QUADRATIC,
            params,
            {"a": a},
            method=ng.Implicit(solver=ng.CG(rtol=1e-6, max_steps=5)),
            inner_batch=inner,
            outer_batch=outer,
        )

    found = run(jnp.ones(M))
    assert isinstance(found.stats, ng.Stats)
    assert int(found.status) == ng.Status.INDEFINITE


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver", [ng.Dense(), ng.CG(rtol=1e-4, max_steps=9), ng.Neumann(num_terms=4, step_size=0.1), ng.Identity()]
)
def test_float32_stays_float32_where_float64_exists(solver):
    found = solved(solver, "float32")
    kinds = {x.dtype for x in jax.tree.leaves((found.total, found.outer_loss, found.stats))}
    assert kinds <= {jnp.dtype("float32"), jnp.dtype("int32")}
    params, hparams, inner, outer, _ = point("float32")
    method = ng.Implicit(solver=solver)

    def run(p, h):
        return ng.hypergradient(QUADRATIC, p, h, method=method, inner_batch=inner, outer_batch=outer)

    assert "f64" not in str(jax.make_jaxpr(run)(params, hparams))


def test_the_backend_is_found_by_name_and_supports_every_spec():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ng.get_backend("jax") is ng
    assert all(ng.supports(spec) for spec in ng.SPECS.values())
    assert not ng.supports(int)
