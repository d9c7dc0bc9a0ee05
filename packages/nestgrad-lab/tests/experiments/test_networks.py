"""Experiments with an LSTM and a ResNet-18, both tiny."""

import dataclasses

import numpy as np
import pytest

from nestgrad_lab.data.dataset import Dataset, Part
from nestgrad_lab.data.text import windows
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments import work
from nestgrad_lab.experiments.cells import cells_of, plan_of
from nestgrad_lab.experiments.plan import begin_runs
from nestgrad_lab.experiments.spec import find_experiment, parse
from nestgrad_lab.networks import SIZES, Lstm, ResNet18
from nestgrad_lab.storage.checkpoints import Checkpoints

WORDS, WINDOW, SIDE = 20, 5, 8
SIZED = {"lstm": "hidden = 4\nlayers = 2\nclip = 0.25", "resnet-18": "width = 2"}
TEXT = """
title = "networks"
data = ["tiny"]
algorithms = {algorithms}
network = "{network}"
{sizes}
starts = 2
steps = 20
batch = 6
looks = 4
dtype = "float64"
backend = "{backend}"
resamples = 20
"""
ALGORITHMS = ("Random", "Baydin", "Ours WD+LR+M")


def text():
    """Windows of a text in which every word says the next, but for some that are drawn."""
    draw = np.random.default_rng(0)
    words = np.arange(400, dtype=np.int32) * 3 % WORDS
    words[draw.random(400) < 0.2] = 1
    train, valid, test = (windows(part, WINDOW) for part in np.split(words, [200, 300]))
    return _dataset(train, valid, test, WINDOW, WORDS)


def images():
    """Images of three colours and three classes."""
    draw = np.random.default_rng(0)
    train, valid, test = (
        Part(draw.normal(size=(count, 3 * SIDE**2)), draw.integers(0, 3, count).astype(np.int32))
        for count in (24, 12, 12)
    )
    return _dataset(train, valid, test, 3 * SIDE**2, 3)


def _dataset(train, valid, test, inputs, classes):
    return Dataset(
        name="tiny",
        task="classification",
        features=tuple(map(str, range(inputs))),
        classes=tuple(map(str, range(classes))),
        train=train,
        valid=valid,
        test=test,
        x_shift=np.zeros(inputs),
        x_scale=np.ones(inputs),
        y_shift=0.0,
        y_scale=1.0,
        sha256="",
    )


DATA = {"lstm": text, "resnet-18": images}


@pytest.fixture(params=SIZED)
def network(request, monkeypatch):
    """A network's name; every data set is one for it."""
    data = DATA[request.param]()
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", lambda name, **cut: data)
    return request.param


def written(network, *, algorithms=ALGORITHMS, backend="torch"):
    names = str(list(algorithms)).replace("'", '"')
    return TEXT.format(algorithms=names, network=network, sizes=SIZED[network], backend=backend)


def cell_of(network, algorithm="Ours WD+LR+M", **options):
    return cells_of(parse(written(network, algorithms=[algorithm], **options), "t"))[0]


def ended(cell, folder, stop=lambda steps: False):
    """What a cell keeps at its end; None where it was stopped."""
    return Checkpoints(folder).newest().arrays if work.run_cell(cell, folder, stop) else None


def test_an_experiment_ends_with_its_tables(lab, network):
    (lab.folder / "t.toml").write_text(written(network))
    result = lab("experiment", "t.toml", "--out", "out")
    assert result.exit_code == 0, result.output
    lines = (lab.folder / "out" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == list(ALGORITHMS)
    page = (lab.folder / "out" / "report.html").read_text()
    assert f"{network}, {SIZED[network].splitlines()[0].replace(' = ', ' ')}" in page


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_lowers_the_loss_and_what_is_kept_is_what_was_seen_last(network, algorithm, tmp_path):
    cell = cell_of(network, algorithm)
    longer = dataclasses.replace(cell, experiment=cell.experiment.varied(steps=60))
    found = ended(longer, tmp_path)
    np.testing.assert_allclose(found["test_loss"], found["seen:test"][-1], rtol=1e-12)
    np.testing.assert_allclose(found["validation_loss"], found["seen:validation"][-1], rtol=1e-12)
    assert ((found["test_accuracy"] >= 0) & (found["test_accuracy"] <= 1)).all()
    assert found["seen:validation"][-1].min() < found["seen:validation"][0].min()
    moved = found["seen:learning_rate"][0] != found["seen:learning_rate"][-1]
    assert moved.all() == (algorithm != "Random")


@pytest.mark.parametrize("algorithm", ["Baydin", "Ours WD+LR+M"])
def test_a_cell_that_is_stopped_goes_on_to_the_same_numbers(network, algorithm, tmp_path):
    cell = cell_of(network, algorithm)
    whole = ended(cell, tmp_path / "whole")
    assert ended(cell, tmp_path / "stopped", lambda steps: True) is None
    again = ended(cell, tmp_path / "stopped")
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_backends_agree(algorithm, tmp_path, monkeypatch):
    """To 1e-8 in float64, of the LSTM with clipped gradients."""
    pytest.importorskip("nestgrad_jax")
    data = text()
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", lambda name, **cut: data)
    one, other = (ended(cell_of("lstm", algorithm, backend=name), tmp_path / name) for name in ("torch", "jax"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-8, err_msg=name)


def test_a_clipped_gradient_moves_the_weights_no_further_than_its_norm():
    data = text()
    cell = cell_of("lstm", "Random")
    small = dataclasses.replace(cell, experiment=cell.experiment.varied(clip=1e-3))
    plan = plan_of(small, data)
    still = [
        dataclasses.replace(one, values={"learning_rate": 1.0, "momentum": 1e-6, "weight_decay": 1e-12})
        for one in plan.starts
    ]
    runs = begin_runs("torch", dataclasses.replace(plan, starts=tuple(still)))
    runs.advance(10)
    moved = sum(((runs.weights()[name] - value) ** 2).reshape(2, -1).sum(1) for name, value in plan.weights.items())
    assert (np.sqrt(moved) <= 10 * 1e-3 * (1 + 1e-4)).all()
    assert (np.sqrt(moved) > 1e-3).all()


@pytest.mark.parametrize(
    ("network", "data", "said"),
    [
        ("lstm", images, "network 'lstm': tiny is rows of numbers, limit: text for lstm. Remedy: data wikitext-2"),
        ("resnet-18", text, "network 'resnet-18': tiny is text, limit: numbers. Remedy: network lstm"),
        ("mlp", text, "network 'mlp': tiny is text, limit: numbers"),
    ],
)
def test_a_network_that_cannot_read_the_rows_is_refused_before_anything_is_written(
    lab, monkeypatch, network, data, said
):
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", lambda name, **cut: data())
    sizes = SIZED.get(network, "")
    (lab.folder / "t.toml").write_text(
        TEXT.format(algorithms=["Random"], network=network, sizes=sizes, backend="torch")
    )
    before = lab.contents()
    result = lab("experiment", "t.toml", "--out", "out")
    assert result.exit_code == 2
    assert said in result.stderr
    assert lab.contents() == before


def test_a_resnet_is_for_square_images(monkeypatch):
    grey = dataclasses.replace(images(), features=("a",) * 64)
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", lambda name, **cut: grey)
    with pytest.raises(OptionError, match="tiny has 64 inputs and is for classification, limit: square images"):
        plan_of(cell_of("resnet-18"), grey)


def test_shipped_ones_are_those_of_the_paper_but_for_their_sizes():
    resnet, lstm = find_experiment("resnet"), find_experiment("lstm")
    assert (resnet.network, lstm.network) == ("resnet-18", "lstm")
    assert resnet.varied(width=64).sizes == SIZES["resnet-18"] == {"width": 64}
    assert lstm.varied(hidden=650).sizes == SIZES["lstm"] == {"hidden": 650, "layers": 2}
    assert lstm.clip == 0.25
    for one in (resnet, lstm):
        assert "small configuration" in one.title
        assert "In full:" in one.note
    assert isinstance(plan_of(cell_of("lstm"), text()).network, Lstm)
    assert isinstance(plan_of(cell_of("resnet-18"), images()).network, ResNet18)
