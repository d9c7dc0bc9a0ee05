"""The hand-written code computes what the library does: both against float64, on the small problem by dense algebra."""

import pytest

from benchmarks import ratios
from benchmarks.frameworks import BACKENDS, floors_of, side_of
from benchmarks.operations import OPERATIONS, PRODUCTS
from benchmarks.problems import PROBLEMS, problem

torch = pytest.importorskip("torch")
LIMIT = 1e-3
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # by torch, tracing


@pytest.mark.parametrize("letter", OPERATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_form_on_the_small_problem_agrees_with_float64(backend, letter):
    pytest.importorskip(f"nestgrad_{backend}")
    from benchmarks.floors.reference import reference, relative_error

    here, expected = side_of(backend).side(problem("P1")), reference("P1", letter)
    for form in ratios.forms_of(backend, "P1", compiled=False):
        found = [ratios.host(value) for value in floors_of(backend).floor(here, letter, form)()[: len(expected)]]
        assert relative_error(found, expected) <= LIMIT, form


def test_the_reference_for_neumann_is_the_dense_formula():
    pytest.importorskip("nestgrad_torch")
    from benchmarks.floors.reference import reference
    from benchmarks.sides.in_torch import side

    here = side(problem("P1"), torch.float64)
    names, sizes = list(here.params), [p.numel() for p in here.params.values()]

    def split(vector):
        parts = zip(names, vector.split(sizes), strict=True)
        return {name: part.view(here.params[name].shape) for name, part in parts}

    start = torch.cat([p.reshape(-1) for p in here.params.values()])
    hessian = torch.func.hessian(lambda w: here.penalised(split(w), here.decays, here.inner))(start)
    v = torch.func.grad(lambda w: here.error(split(w), here.outer))(start)
    rate = here.problem.rate
    step = torch.eye(len(start), dtype=start.dtype) - rate * hessian
    adjoint = rate * sum(torch.linalg.matrix_power(step, j) @ v for j in range(PRODUCTS + 1))
    decays = torch.cat([h.reshape(-1) for h in here.decays.values()])
    expected = -decays.exp() * start * adjoint  # the mixed derivative of ½ Σ exp(decay) w²
    found = torch.cat([part.reshape(-1) for part in reference("P1", "a")])
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_problems_are_those_that_are_named():
    weights = {name: sum(p.size for p in problem(name).params.values()) for name in PROBLEMS}
    assert weights == {"P1": 501, "P2": 669_706, "P3": 307_306, "P4": 500}


def test_wrong_work_is_not_timed(monkeypatch):
    pytest.importorskip("nestgrad_torch")
    floors = floors_of("torch")
    right = floors.floor
    monkeypatch.setattr(floors, "floor", lambda *args: lambda: [1.01 * value for value in right(*args)()])
    with pytest.raises(RuntimeError, match=r"torch a P1 eager: relative error 1.0e-02, limit 1e-03"):
        ratios.contestants("torch", "a", "P1", compiled=False)
