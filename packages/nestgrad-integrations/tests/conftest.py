import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _seeded():
    """Every test draws the same numbers, in whatever order the tests run."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.manual_seed(0)
