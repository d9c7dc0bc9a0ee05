import pytest

from nestgrad_conformance import parametrize_with_checks
from nestgrad_torch.testing import harness


@pytest.mark.filterwarnings("ignore::nestgrad.ZeroHypergradient")  # some problems have a hypergradient of zero
@parametrize_with_checks(harness(), max_examples=30)  # nox -s conformance takes 100
def test_conformance(run):
    run()
