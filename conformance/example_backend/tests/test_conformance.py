"""The suite, run by a backend that lives outside nestgrad's own packages."""

from nestgrad_conformance import parametrize_with_checks
from nestgrad_example.testing import harness


@parametrize_with_checks(harness)
def test_conformance(run):
    run()
