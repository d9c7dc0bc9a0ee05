"""The backend passes the suite."""

import pytest

from nestgrad_conformance import parametrize_with_checks
from nestgrad_jax.testing import harness


@pytest.mark.filterwarnings("ignore::nestgrad.Recompilation")  # every drawn problem is new to the compiler
@parametrize_with_checks(harness(), max_examples=100)
def test_conformance(run):
    run()
