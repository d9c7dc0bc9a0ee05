"""The study of figure 2.5, on scikit-learn's digits in place of MNIST."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.studies import many_decays as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    layers=(1, 2),
    hidden=6,
    train_rows=60,
    valid_rows=60,
    test_rows=100,
    batch=30,
    steps=40,
    unrolled_steps=20,
    unrolled_runs=12,
    looks=4,
)


def found(settings, name):
    (piece,) = [piece for piece in study.pieces(settings) if piece.name == name]
    context = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)
    return study.work(settings, piece, context)


@pytest.mark.parametrize(("name", "count"), [("hyper-training, 1 layer", 650), ("unrolled, 2 layers", 460)])
def test_each_weight_has_a_decay_and_the_losses_are_repeatable(digits, name, count):
    first, again = found(TINY, name), found(TINY, name)
    assert int(first["hyperparameters"]) == count
    for part in (*study.PARTS, "test_error", "hyper_step"):
        np.testing.assert_array_equal(first[part], again[part])
    assert np.all(np.diff(first["seconds"]) > 0)


def test_unrolling_lowers_the_validation_loss_of_whole_runs(digits):
    one = found(dataclasses.replace(TINY, start=0.0), "unrolled, 1 layer")
    assert one["hyper_step"][0] == 1
    assert one["hyper_step"][-1] == 12
    assert one["valid"][-1] < one["valid"][0]


def test_decays_that_never_move_leave_unrolled_runs_as_they_were(digits):
    one = found(dataclasses.replace(TINY, unrolled_outer_rate=0.0), "unrolled, 1 layer")
    assert np.ptp(one["valid"]) == 0.0


def test_hyper_training_trains_the_weights(digits):
    one = found(dataclasses.replace(TINY, steps=600, rate=3e-4), "hyper-training, 2 layers")
    assert one["hyper_step"][0] == 1
    assert one["train"][-1] < 0.8 * one["train"][0]


def test_hyper_training_whose_decays_never_move_trains_as_fixed_decays_do(digits):
    settings = dataclasses.replace(TINY, steps=500, rate=3e-3, outer_rate=0.0, batch=60)
    one, other = (found(settings, f"{method}, 1 layer") for method in ("hyper-training", "fixed"))
    assert one["valid"][-1] == pytest.approx(other["valid"][-1], rel=0.05)
    assert other["train"][-1] < 0.8 * other["train"][0]


def test_the_table_says_when_nine_tenths_of_the_way_are_done():
    one = {"valid": np.array([2.0, 1.5, 1.09, 1.0, 1.2]), "seconds": np.array([0.0, 1.0, 2.0, 3.0, 4.0])}
    assert study._seconds_to(one, 0.9) == 2.0
    assert study._seconds_to(one, 1.0) == 3.0


def test_the_command_draws_both_figures(lab, digits):
    small = {"train_rows": 20, "valid_rows": 20, "test_rows": 20, "batch": 10, "hidden": 3}
    small |= {"steps": 6, "unrolled_steps": 3, "unrolled_runs": 2, "looks": 2, "layers": "1,2"}
    options = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "many-decays", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    for name in ("losses", "layers"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
