"""The paper's UCI experiment on a small table, and on a real one where it is at hand."""

import json
import os
import tomllib

import numpy as np
import pytest

from nestgrad_lab.clarke.starts import draw_starts
from nestgrad_lab.data import dataset

SGD, ADAM = {"learning_rate", "momentum", "weight_decay"}, {"learning_rate", "b1", "b2", "weight_decay"}
TUNED = {"WD+LR+M": SGD, "WD+LR": {"learning_rate", "weight_decay"}, "Lorraine": {"weight_decay"}, "Random": set()}
TUNED |= {"Adam": ADAM, "Random Adam": set()}


@pytest.fixture
def small(lab, monkeypatch):
    """A table of 60 rows in place of the UCI set."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    data = dataset.regression(
        "uci/small", x, np.sin(x[:, 0]) + x[:, 1], dataset.shuffled(60, 0), ("a", "b", "c")
    )  # fmt: skip
    monkeypatch.setattr("nestgrad_lab.clarke.experiment.load", lambda name: data)
    return lab


def results(lab, backend, *arguments):
    out = f"{backend}-{len(list(lab.folder.iterdir()))}"
    result = lab("clarke", "--data", "uci/small", "--backend", backend, *arguments, "--out", out)
    assert result.exit_code == 0, result.output
    header, *lines = [line.split(",") for line in (lab.folder / out / "starts.csv").read_text().splitlines()]
    columns = {name: np.array([float(line[i]) for line in lines]) for i, name in enumerate(header)}
    return columns, json.loads((lab.folder / out / "summary.json").read_text())


CARRIED = ("--carry", "weights_and_state", "--every", 7, "--lookback", 3)


@pytest.mark.parametrize(
    "choice",
    [
        ("--algorithm", "WD+LR+M"),
        ("--algorithm", "WD+LR"),
        ("--algorithm", "Random"),
        CARRIED,
        ("--inner", "adam"),
        ("--inner", "adam", "--algorithm", "Random Adam"),
    ],
    ids=["WD+LR+M", "WD+LR", "Random", "carried", "Adam", "Random Adam"],
)
def test_backends_agree_on_fifty_steps_of_every_start(small, choice):
    pytest.importorskip("nestgrad_jax")
    options = (*choice, "--starts", 3, "--steps", 50, "--dtype", "float64")
    torch, jax = (results(small, backend, *options)[0] for backend in ("torch", "jax"))
    for name, values in torch.items():
        np.testing.assert_allclose(jax[name], values, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("algorithm", TUNED)
def test_an_algorithm_moves_what_it_names_and_nothing_else(small, algorithm):
    inner, names = ("adam", ADAM) if "Adam" in algorithm else ("sgd", SGD)
    found, summary = results(small, "torch", "--inner", inner, "--algorithm", algorithm, "--starts", 2, "--steps", 20)
    assert {name.removeprefix("final_") for name in found if name.startswith("final_")} == names
    for name in names:
        still = np.allclose(found[f"initial_{name}"], found[f"final_{name}"], rtol=1e-5)
        assert still == (name not in TUNED[algorithm]), name
    assert summary["test_mse"]["median"] == pytest.approx(np.median(found["test_mse"]))
    assert summary["test_mse"]["mean"] == pytest.approx(np.mean(found["test_mse"]))
    assert (summary["finished"], summary["nan"], summary["state"]) == (2, 0, "finished")


def test_interval_look_back_and_carried_state_change_the_numbers_and_are_recorded(small):
    options, plain = ("--starts", 2, "--steps", 30, "--dtype", "float64"), {}
    paper = {"every": 10, "lookback": 5, "carry": "weights"}
    for name, other in [("every", 5), ("lookback", 3), ("carry", "weights_and_state"), (None, None)]:
        columns, _ = results(small, "torch", *([f"--{name}", other] if name else []), *options)
        newest = max(small.folder.iterdir(), key=lambda path: int(path.name.split("-")[1]))
        tuning = tomllib.loads((newest / "config.toml").read_text())["tuning"]
        assert {key: tuning[key] for key in paper} == {**paper, **({name: other} if name else {})}
        plain[name] = columns["final_momentum"]
    for name in paper:
        assert (np.abs(plain[name] / plain[None] - 1.0) > 1e-6).all(), name


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--every", 0, "--every 0, limit: at least 1"),
        ("--lookback", 0, "--lookback 0, limit: at least 1"),
        ("--carry", "state", "limit: weights or weights_and_state"),
        ("--steps", 9, "no hyper step is due before step 10"),
    ],
)
def test_wrong_options_are_named(small, option, value, said):
    before = small.contents()
    result = small("clarke", "--data", "uci/small", option, value)
    assert result.exit_code == 2
    assert said in result.stderr
    assert small.contents() == before


def test_nan_runs_are_counted_and_left_out(small, monkeypatch):
    weights = iter([1.0, float("nan"), 3.0])
    monkeypatch.setattr("nestgrad_lab.clarke.experiment.test_score", lambda data, w: next(weights))
    _, summary = results(small, "torch", "--algorithm", "Random", "--starts", 3, "--steps", 2)
    assert summary["nan"] == 1
    assert summary["test_mse"]["median"] == 2.0


def test_starts_are_drawn_in_the_papers_ranges_and_do_not_depend_on_their_number():
    many = draw_starts(300, 2, 3, "float32", 0)
    for name, low, high, scale in [
        ("learning_rate", -6, -1, np.log10),
        ("weight_decay", -7, -2, np.log10),
        ("momentum", 0, 1, float),
    ]:
        drawn = np.array([scale(start.values[name]) for start in many])
        assert low < drawn.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < drawn.max() < high
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))
    few = draw_starts(2, 2, 3, "float32", 0)
    adam = draw_starts(2, 2, 3, "float32", 0, "adam")
    np.testing.assert_array_equal(few[1].weights["hidden.weight"], adam[1].weights["hidden.weight"])
    assert few[1].values == many[1].values
    np.testing.assert_array_equal(few[1].weights["hidden.weight"], many[1].weights["hidden.weight"])


def test_adams_starts_are_drawn_as_stated():
    many = draw_starts(300, 2, 3, "float32", 0, "adam")
    for name, low, high, scale in [
        ("learning_rate", -6, -1, np.log10),
        ("b1", -2, 0, lambda b: np.log10(1 - b)),
        ("b2", -4, -1, lambda b: np.log10(1 - b)),
        ("weight_decay", -7, -2, np.log10),
    ]:
        drawn = np.array([scale(start.values[name]) for start in many])
        assert low < drawn.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < drawn.max() < high
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--inner", "lion"), "--inner 'lion', limit: sgd or adam"),
        (("--inner", "adam", "--algorithm", "WD+LR"), "limit: Adam, Random Adam. Remedy: pass --inner sgd"),
        (("--algorithm", "Adam"), "Remedy: pass --inner adam"),
        (("--algorithm", "Baydin"), "limit: WD+LR+M, WD+LR, Lorraine, Random. Remedy: name one"),
    ],
)
def test_an_algorithm_of_another_optimizer_is_refused(small, options, said):
    result = small("clarke", "--data", "uci/small", *options)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.skipif("NESTGRAD_DATA" not in os.environ, reason="NESTGRAD_DATA is not set")
@pytest.mark.parametrize(("inner", "tuned", "untuned"), [("sgd", "WD+LR+M", "Random"), ("adam", "Adam", "Random Adam")])
def test_tuned_starts_on_energy_end_better_than_random_ones(lab, inner, tuned, untuned):
    pytest.importorskip("nestgrad_jax")
    medians = {}
    for algorithm in (tuned, untuned):
        choice = ("--inner", inner, "--algorithm", algorithm, "--starts", 8, "--steps", 500)
        result = lab("clarke", "--backend", "jax", *choice, "--out", algorithm)
        assert result.exit_code == 0, result.output
        medians[algorithm] = json.loads((lab.folder / algorithm / "summary.json").read_text())["test_mse"]["median"]
    assert medians[tuned] < 0.5 * medians[untuned]
