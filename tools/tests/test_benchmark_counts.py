"""The exact counts, recorded: a change of one is a change of cost, to be made on purpose and here as well."""

import pytest

from benchmarks import bench_counts, common

PRODUCTS = {"identity": 0, "neumann": 5, "cg": 11, "dense": 501}
LOSS_CALLS = {"torch": 1, "jax": 0}  # jax compiles once and calls no Python after that


@pytest.fixture(autouse=True)
def _needs_backend(request):
    backend = request.node.callspec.params["backend"]
    if backend not in common.nestgrad.available_backends():
        pytest.skip(f"nestgrad-{backend} is not installed")
    pytest.importorskip(backend)


@pytest.mark.parametrize("solver", common.SOLVERS)
@pytest.mark.parametrize("backend", common.BACKENDS)
def test_a_hypergradient_takes_the_recorded_products_and_loss_calls(backend, solver):
    bench = bench_counts.Hypergradient()
    bench.setup(backend, solver)
    assert bench.track_products(backend, solver) == PRODUCTS[solver]
    assert bench.track_inner_loss_calls(backend, solver) == LOSS_CALLS[backend]
    assert bench.track_outer_loss_calls(backend, solver) == LOSS_CALLS[backend]


@pytest.mark.parametrize("backend", common.BACKENDS)
def test_one_pass_tuning_trains_on_no_gradient_more_than_plain_training(backend):
    bench = bench_counts.OnePass()
    bench.setup(backend)
    assert bench.track_inner_loss_calls(backend) == 10 * LOSS_CALLS[backend]
    assert bench.track_outer_loss_calls(backend) == LOSS_CALLS[backend]
    assert bench.track_products(backend) == 4
