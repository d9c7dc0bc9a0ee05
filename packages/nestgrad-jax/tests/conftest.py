import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_promotion():
    """Every test runs with the promotions forbidden that let a shape or a dtype slip."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
