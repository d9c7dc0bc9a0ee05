"""Bayesian optimisation, and Ray: cells as tasks of a cluster, ASHA and PBT by Ray Tune."""

import csv
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from nestgrad_lab.experiments.cells import cells_of, plan_of
from nestgrad_lab.experiments.plan import begin_runs
from nestgrad_lab.experiments.spec import find_experiment, parse
from nestgrad_lab.experiments.work import run_cell
from nestgrad_lab.storage.checkpoints import Checkpoints

TEXT = """
title = "searched"
data = ["digits"]
algorithms = ["searched"]
starts = 3
steps = 20
hidden = 4
batch = 30
backend = "torch"
resamples = 20

[[variant]]
name = "searched"
of = "Bayesian optimisation"
trials = 7
"""


@pytest.fixture
def cell():
    pytest.importorskip("bayes_opt")
    return cells_of(parse(TEXT, "searched"))[0]


def test_the_weights_that_count_are_those_with_the_lowest_validation_loss(cell, tmp_path):
    """Each trial run again by itself, from the point and the weights that the search says it had."""
    from nestgrad_lab.searches.bayesian import BayesianRuns

    plan = plan_of(cell, _digits())
    runs = BayesianRuns(plan, "torch", 20, 0)
    losses, weights = [], []
    for _ in range(7):
        runs.advance(20)
        losses.append(runs.losses()["validation"])
        weights.append(runs._inner.weights())
    best = np.argmin(losses, axis=0)
    for name, value in runs.weights().items():
        np.testing.assert_array_equal(value, np.stack([weights[b][name][k] for k, b in enumerate(best)]))
    points = runs._points
    assert points.shape == (7, 3, 3)
    assert ((points >= [-6, -7, 0]) & (points <= [-1, -2, 1])).all()
    rate = runs.values()["learning_rate"]
    np.testing.assert_allclose(rate, [10.0 ** points[b, k, 0] for k, b in enumerate(best)])
    start = plan.starts[0]
    alone = begin_runs("torch", dataclasses.replace(runs._trial_plan(6), starts=runs._trial_plan(6).starts[:1]))
    assert start.number == 0
    assert not np.array_equal(alone.weights()["hidden.weight"][0], plan.weights["hidden.weight"][0])


@pytest.mark.parametrize("looks", [1, 3, 6], ids=["in a trial", "in a later one", "among guided ones"])
def test_a_search_that_is_stopped_goes_on_to_the_same_numbers(cell, tmp_path, looks):
    cell = dataclasses.replace(cell, experiment=cell.experiment.varied(looks=7))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_cell(cell, whole, lambda steps: False)
    left = looks

    def stop(steps):
        nonlocal left
        left -= 1
        return left <= 0

    assert not run_cell(cell, stopped, stop)
    assert run_cell(cell, stopped, lambda steps: False)
    one, other = (Checkpoints(folder).newest().arrays for folder in (whole, stopped))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def _digits():
    from nestgrad_lab.experiments.cells import choose
    from nestgrad_lab.experiments.spec import DataChoice

    return choose(DataChoice(name="digits"))


POPULATION = """
title = "populations"
data = ["digits"]
algorithms = ["Ours WD+LR+M", "PBT, Ours WD+LR+M"]
starts = 2
steps = 600
hidden = 4
batch = 30
backend = "torch"
resamples = 20
"""


def test_ray_runs_cells_to_the_same_numbers_and_tunes_populations(lab):
    """One test, since a cluster takes its time to begin; in a process of its own, as Ray begins others from it."""
    pytest.importorskip("ray")
    (lab.folder / "p.toml").write_text(POPULATION)
    command = [sys.executable, "-m", "nestgrad_lab", "experiment", "p.toml", "--ray", "local", "--out", "there"]
    done = subprocess.run(command, cwd=lab.folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = _rows(lab.folder / "there")
    assert [row["algorithm"] for row in rows] == ["Ours WD+LR+M"] * 2 + ["PBT, Ours WD+LR+M"] * 2
    for row in rows:
        assert np.isfinite(float(row["test_loss"]))
        assert float(row["final_learning_rate"]) != float(row["initial_learning_rate"])  # one-pass tuning was at work
    result = lab("experiment", "p.toml", "--algorithm", "Ours WD+LR+M", "--out", "here")
    assert result.exit_code == 0, result.output
    assert _rows(lab.folder / "here") == rows[:2]


def _rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_perturbed_configuration_moves_what_was_tuned_in_its_leaf(tmp_path):
    pytest.importorskip("ray")
    from ray import tune

    from nestgrad_lab.searches.populations import _trial_class

    cell = cells_of(parse(POPULATION, "p"))[1]
    config = {"learning_rate": 1e-3, "weight_decay": 1e-4, "momentum": 0.5, "number": 1}
    trial = _made(_trial_class(tune), config, cell)
    trial.step()
    tuned = {name: float(value[0]) for name, value in trial.runs.values().items()}
    trial.save_checkpoint(str(tmp_path))
    other = _made(_trial_class(tune), {**config, "learning_rate": 2e-3}, cell)
    other.load_checkpoint(str(tmp_path))
    moved = {name: float(value[0]) for name, value in other.runs.values().items()}
    assert moved["learning_rate"] == pytest.approx(2 * tuned["learning_rate"], rel=1e-5)
    for name in ("weight_decay", "momentum"):
        assert moved[name] == tuned[name]
    assert tuned["learning_rate"] != pytest.approx(1e-3, rel=1e-3)
    assert other.taken == 100
    np.testing.assert_array_equal(
        other.runs.weights()["hidden.weight"], trial.runs.weights()["hidden.weight"]
    )  # fmt: skip


def _made(kind, config, cell):
    trial = object.__new__(kind)
    trial.config = config
    trial.setup(config, cell)
    return trial


def test_jobs_in_processes_give_the_same_bytes(lab):
    (lab.folder / "c.toml").write_text(POPULATION.replace("PBT, Ours WD+LR+M", "Random"))
    for out, jobs in (("one", 1), ("two", 2)):
        result = lab("experiment", "c.toml", "--starts", 2, "--steps", 20, "--out", out, "--jobs", jobs)
        assert result.exit_code == 0, result.output
    one, two = ((lab.folder / out / "results.csv").read_bytes() for out in ("one", "two"))
    assert one == two


def test_jobs_and_ray_exclude_each_other(lab):
    result = lab("experiment", "energy", "--jobs", 2, "--ray", "local")
    assert result.exit_code == 2
    assert "--jobs 2 with --ray, limit: one of both" in result.stderr


def test_shipped_searches_name_what_they_are():
    assert find_experiment("bayesian").algorithm("Bayesian optimisation").trials == 30


@pytest.mark.parametrize(
    ("package", "name", "options", "extra"),
    [
        ("bayes_opt", "bayesian", (), "search"),
        ("ray", "populations", (), "ray"),
        ("ray", "bayesian", ("--algorithm", "Random", "--ray", "local"), "ray"),
    ],
)
def test_a_missing_package_is_named_and_nothing_written(lab, monkeypatch, package, name, options, extra):
    monkeypatch.setitem(sys.modules, package, None)
    before = lab.contents()
    result = lab("experiment", name, "--data", "digits", *options)
    assert result.exit_code == 2
    assert f"Remedy: pip install 'nestgrad-lab[{extra}]'" in result.stderr
    assert lab.contents() == before
