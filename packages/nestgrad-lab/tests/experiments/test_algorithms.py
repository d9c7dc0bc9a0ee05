"""Every algorithm of an experiment: what moves, by how much, and alike on both backends."""

import numpy as np
import pytest

from nestgrad_lab.experiments.algorithms import ALGORITHMS
from nestgrad_lab.experiments.draws import draw_starts
from nestgrad_lab.experiments.rows import Rows
from nestgrad_lab.networks import Mlp

NAMES = [name for name, one in ALGORITHMS.items() if not one.search and one.rule != "full-horizon"]
HORIZON = '[[variant]]\nname = "whole"\nof = "Full-horizon"\nevery = 10\nlookback = 10\n'
CHOSEN = '[[variant]]\nname = "chosen"\nof = "Ours WD+LR+M"\nrule = "self-chosen"\n'
MORE = {"whole": HORIZON, "chosen": CHOSEN}


def numbers(rows, prefix):
    return {name: rows[name].astype(float) for name in rows if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("algorithm", "batch"),
    [*((name, "") for name in [*NAMES, "whole", "chosen"]), ("Ours WD+LR+M", "batch = 7"), ("Baydin", "batch = 7")],
)
def test_backends_agree(small, algorithm, batch):
    """To 1e-9 in float64, of test losses, validation losses and hyperparameters, after 20 steps."""
    pytest.importorskip("nestgrad_jax")
    more = f"{batch}\n{MORE.get(algorithm, '')}"
    one, other = (
        small([algorithm], out=backend, backend=backend, more=more, name=backend) for backend in ("torch", "jax")
    )
    for name in one:
        if name not in {"data", "algorithm"}:
            np.testing.assert_allclose(other[name].astype(float), one[name].astype(float), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("algorithm", [*NAMES, "whole", "chosen"])
def test_an_algorithm_moves_what_it_names_and_nothing_else(small, algorithm):
    rows = small([algorithm], more=MORE.get(algorithm, ""))
    rule = ALGORITHMS.get(algorithm) or ALGORITHMS["Ours WD+LR+M"]
    first, last = numbers(rows, "initial_"), numbers(rows, "final_")
    assert {name.removeprefix("initial_") for name in first} == set(rule.settings)
    for name in rule.settings:
        still = np.allclose(first[f"initial_{name}"], last[f"final_{name}"], rtol=1e-7)
        assert still == (name not in rule.tuned), name


def test_random_multiplies_the_learning_rate_by_the_starts_own_factor(small):
    rows = small(["Random (xLR)"], steps=30)
    starts = draw_starts(range(2), Mlp(3, 6, 1), "float64", 0, "sgd")
    ratio = rows["final_learning_rate"].astype(float) / rows["initial_learning_rate"].astype(float)
    np.testing.assert_allclose(ratio, [start.factor**3 for start in starts], rtol=1e-12)


def test_untuned_algorithms_train_on_validation_rows_too(small):
    merged, alone = (small([name], out=name, name=name[:6]) for name in ("Random", "Random (3-batched)"))
    assert (merged["validation_loss"].astype(float) < alone["validation_loss"].astype(float)).any()
    assert (merged["test_loss"] != alone["test_loss"]).all()


@pytest.mark.parametrize(
    ("field", "value"), [("every", 5), ("lookback", 3), ("carry", '"weights_and_state"'), ("outer_lr", 0.1)]
)
def test_a_variant_changes_the_numbers(small, field, value):
    more = f'[[variant]]\nname = "other"\nof = "Ours WD+LR+M"\n{field} = {value}\n'
    rows = small(["Ours WD+LR+M", "other"], more=more, steps=30)
    plain, other = rows["final_momentum"].astype(float).reshape(2, -1)
    assert (np.abs(other / plain - 1.0) > 1e-9).all()


def test_starts_are_drawn_in_the_papers_ranges_and_do_not_depend_on_their_number():
    many = draw_starts(range(300), Mlp(2, 3, 1), "float32", 0, "sgd")
    adam = draw_starts(range(300), Mlp(2, 3, 1), "float32", 0, "adam")
    for starts, name, low, high, scale in [
        (many, "learning_rate", -6, -1, np.log10),
        (many, "weight_decay", -7, -2, np.log10),
        (many, "momentum", 0, 1, float),
        (adam, "learning_rate", -6, -1, np.log10),
        (adam, "b1", -2, 0, lambda b: np.log10(1 - b)),
        (adam, "b2", -4, -1, lambda b: np.log10(1 - b)),
        (adam, "weight_decay", -7, -2, np.log10),
    ]:
        drawn = np.array([scale(start.values[name]) for start in starts])
        assert low < drawn.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < drawn.max() < high
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))
    factors = np.array([start.factor for start in many])
    assert 0.95 < factors.min() < 0.955
    assert 1.005 < factors.max() < 1.01
    later = draw_starts(range(1, 2), Mlp(2, 3, 1), "float32", 0, "sgd")[0]
    assert (later.number, later.values, later.factor) == (1, many[1].values, many[1].factor)
    for starts in (many, adam):
        np.testing.assert_array_equal(later.weights["hidden.weight"], starts[1].weights["hidden.weight"])


def test_batches_are_a_function_of_seed_start_and_step_and_see_every_row_once_a_pass():
    rows = Rows(10, 4, [0], [3, 8])
    seen = np.stack([rows.at(step) for step in range(5)])  # two passes, one batch over their border
    assert seen.shape == (5, 2, 4)
    for start in range(2):
        assert sorted(seen[:, start].ravel()) == sorted([*range(10)] * 2)
    again = Rows(10, 4, [0], [8])
    np.testing.assert_array_equal(again.at(3)[0], seen[3, 1])
    assert (seen[:, 0] != seen[:, 1]).any()
    assert Rows(10, 10, [0], [0]).at(0) is None
    assert Rows(10, None, [0], [0]).at(0) is None
