"""The study of figure 3.9, on scikit-learn's digits in place of MNIST."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.errors import DataError, OptionError
from nestgrad_lab.studies import split_retrain as study
from nestgrad_lab.studies.split_retrain_settings import KINDS
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(study.SMALL, sizes=(100,), shares=(0.0, 0.25, 0.75), test_rows=300, runs=2, epochs=60)


def found(kind, settings=TINY):
    context = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)
    (piece,) = [each for each in study.pieces(settings) if each.name == f"{settings.sizes[0]} rows, {kind}"]
    return study.work(settings, piece, context)


@pytest.fixture
def results(digits):
    return {f"100 rows, {kind}": found(kind) for kind in KINDS}


def test_what_is_found(results):
    """In one test, as it takes seconds to find."""
    for one in results.values():
        np.testing.assert_array_equal(study.gains(one)[0], 0.0)
        np.testing.assert_allclose(one["log_decay"][0], TINY.log_decay, atol=1e-6)
        assert np.isnan(one["validation"][0]).all()
        assert np.isfinite(one["validation"][1:]).all()

    gain = study.gains(results["100 rows, one decay"]).mean(1)
    assert (np.diff(gain) > 0).all()
    assert gain[-1] > 0.03

    one, many = (results[f"100 rows, {kind}"]["validation"][1:].mean() for kind in KINDS)
    assert many > one

    accuracy, rise = study.tables(TINY, results)
    assert len(accuracy.rows) == 2 * len(TINY.shares)
    for row in accuracy.rows:
        assert row[5] == pytest.approx(row[4] - row[3])
    assert rise.rows[0][:3] == ["100 rows, one decay", "2 of 2", pytest.approx(1.0)]
    assert set(study.figures(TINY, results)) == {"accuracy"}


def test_one_decay_is_the_same_decay_for_each_weight():
    import torch

    from nestgrad_lab.studies import torch_draws as draws
    from nestgrad_lab.studies import torch_linear as linear

    torch.manual_seed(0)
    w = {"w1": torch.randn(4, 3), "b1": torch.randn(3)}
    batch = torch.randn(5, 4), torch.eye(3)[[0, 1, 2, 0, 1]]
    loss = draws.decayed(linear.cross_entropy)
    each = {name: torch.full_like(value, 0.3) for name, value in w.items()}
    one = loss(w, {"decay": torch.tensor(0.3)}, batch)
    torch.testing.assert_close(one, loss(w, {"decay": each}, batch))
    torch.testing.assert_close(one - linear.cross_entropy(w, None, batch), 0.3 * linear.squared_norm(w))


def test_rows_are_drawn_once_and_by_the_seed(digits):
    from nestgrad_lab.studies import torch_draws as draws

    rows, all_of_them = draws.Rows("mnist", "cpu"), len(digits.merged)
    one, other = rows.drawn((all_of_them - 5, 5), 0)
    both = np.concatenate([one[0].numpy(), other[0].numpy()])
    key = np.arange(64) ** 2.0
    np.testing.assert_allclose(np.sort(both @ key), np.sort(digits.merged.x @ key), rtol=1e-4, atol=1e-2)
    again, last = (rows.drawn((7,), seed)[0][0].numpy() for seed in (0, 1))
    np.testing.assert_array_equal(again, one[0][:7].numpy())
    assert not np.array_equal(again, last)
    with pytest.raises(DataError, match=f"{all_of_them + 1} rows asked for, limit: {all_of_them}"):
        rows.drawn((all_of_them + 1,), 0)


def test_an_unknown_kind_is_named(digits):
    settings = dataclasses.replace(TINY, kinds=("none",))
    with pytest.raises(OptionError, match="kinds 'none', limit: one decay or one for each weight"):
        found("none", settings)
