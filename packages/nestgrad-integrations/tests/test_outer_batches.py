"""Outer batches without end: every batch of each round, in an order of their own."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.utils.data import DataLoader  # noqa: E402

from nestgrad_integrations._outer_batches import OuterBatches  # noqa: E402


def test_each_round_is_shuffled_anew_though_the_loop_draws_nothing():
    before = torch.get_rng_state()
    batches = OuterBatches(DataLoader(range(16), batch_size=1, shuffle=True))
    rounds = [[int(next(batches)) for _ in range(16)] for _ in range(3)]
    assert all(sorted(order) == [*range(16)] for order in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]
    assert torch.equal(before, torch.get_rng_state())
