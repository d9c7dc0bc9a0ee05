"""The backend passes the suite."""

import jax
import pytest

from nestgrad_conformance import parametrize_with_checks
from nestgrad_jax.testing import harness


@pytest.mark.filterwarnings("ignore::nestgrad.Recompilation")  # every drawn problem is new to the compiler
@parametrize_with_checks(harness(), max_examples=10)  # each shape compiles; nox -s conformance takes 100
def test_conformance(run):
    # The suite's problems are written for any array library, and promote ranks as all of them do.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run()
