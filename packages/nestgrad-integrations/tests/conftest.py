import pytest


@pytest.fixture(autouse=True)
def _seeded():
    """Every test draws the same numbers, in whatever order the tests run."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
