"""The fields of method specs: their ranges, and what is derived from them."""

import pytest

from nestgrad import (
    BOME,
    DARTS,
    GMRES,
    PES,
    SAMA,
    Dense,
    Implicit,
    InvalidInput,
    Penalty,
    ProximalGradient,
    Unrolled,
    WeightUpdate,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unrolled(num_steps=0), "num_steps: got 0, limit: an int of at least 1"),
        (lambda: Unrolled(num_steps=3, mode="sideways"), "mode: got 'sideways', limit: one of 'reverse', 'forward'"),
        (lambda: Unrolled(num_steps=3, lookback=4), "lookback: got 4, limit: num_steps=3"),
        (lambda: Unrolled(num_steps=3, checkpoint_every=0), "checkpoint_every: got 0"),
        (lambda: Unrolled(num_steps=3, checkpoint_every=2, mode="forward"), "stores no states, limit: None"),
        (lambda: PES(num_steps=5, truncation=2, sigma=0.1, num_pairs=1), "truncation: got 2, limit: a divisor"),
        (lambda: PES(num_steps=4, truncation=2, sigma=0.0, num_pairs=1), "sigma: got 0.0, limit: a finite number"),
        (lambda: DARTS(step_size=-1.0), "step_size: got -1.0"),
        (lambda: DARTS(step_size=1.0, radius=0.0), "radius: got 0.0"),
        (lambda: SAMA(radius=float("nan")), "radius: got nan"),
        (lambda: Penalty(multiplier=0.0, num_steps=1, step_size=0.1), "multiplier: got 0.0"),
        (lambda: BOME(num_steps=1, step_size=0.1, barrier="both"), "barrier: got 'both', limit: one of 'norm'"),
        (lambda: GMRES(rtol=0.0, max_steps=3, restart=0), "restart: got 0"),
        (lambda: Implicit(solver=Dense(), damping=-1.0), "damping: got -1.0"),
        (lambda: WeightUpdate(print, print, carry="all"), "carry: got 'all', limit: one of 'weights'"),
        (lambda: ProximalGradient(print, print, step_size=0.0), "step_size: got 0.0"),
    ],
)
def test_a_field_out_of_range_is_refused_with_its_limit(make, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        make()
    assert "Remedy:" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "window", "segment"),
    [
        (Unrolled(num_steps=10), 10, 10),
        (Unrolled(num_steps=10, lookback=4), 4, 4),
        (Unrolled(num_steps=10, checkpoint_every=3), 10, 3),
        (Unrolled(num_steps=10, checkpoint_every="sqrt"), 10, 4),
        (Unrolled(num_steps=9, checkpoint_every="sqrt"), 9, 3),
        (Unrolled(num_steps=1, checkpoint_every="sqrt"), 1, 1),
        (Unrolled(num_steps=100, lookback=16, checkpoint_every="sqrt"), 16, 4),
    ],
)
def test_window_and_segment_follow_from_the_fields(spec, window, segment):
    assert (spec.window, spec.segment) == (window, segment)


def test_windows_of_persistent_strategies():
    assert PES(num_steps=6, truncation=2, sigma=0.1, num_pairs=1).windows == 3


def test_specs_are_hashable_and_equal_by_value():
    assert len({Unrolled(num_steps=2), Unrolled(num_steps=2), Unrolled(num_steps=2, mode="forward")}) == 2
