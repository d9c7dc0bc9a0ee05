"""The reference passes the suite that is built on it; `nox -s conformance` has 100 examples a check."""

from nestgrad_conformance import parametrize_with_checks
from nestgrad_reference.testing import harness


@parametrize_with_checks(harness, max_examples=20)
def test_conformance(run):
    run()
