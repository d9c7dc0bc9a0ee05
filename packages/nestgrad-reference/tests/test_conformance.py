"""The reference passes the suite that is built on it."""

from nestgrad_conformance import parametrize_with_checks
from nestgrad_reference.testing import harness


@parametrize_with_checks(harness, max_examples=100)
def test_conformance(run):
    run()
