"""The study of one weight decay a weight, on scikit-learn's digits and a network of 1,530 weights."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nestgrad_torch")

import nestgrad_torch as ng  # noqa: E402
from nestgrad_lab.errors import DataError, OptionError  # noqa: E402
from nestgrad_lab.studies import million_decays as study  # noqa: E402
from nestgrad_lab.studies import torch_million_decays as torch_side  # noqa: E402
from nestgrad_lab.studies.study import Context  # noqa: E402

TINY = dataclasses.replace(
    study.SMALL,
    train_rows=100,
    valid_rows=100,
    test_rows=100,
    sizes=(64, 20, 10, 10),
    batch_rows=50,
    outer_rows=100,
    steps=60,
    looks=4,
    runs=2,
    cost_rows=20,
    rounds=3,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    from nestgrad_lab.data import load

    found = load("digits")
    monkeypatch.setattr(torch_side, "load", lambda name: found)


def decays(run=0, **changes):
    return torch_side.Decays(dataclasses.replace(TINY, **changes), CONTEXT, run=run)


def test_there_are_more_than_a_million_and_as_many_as_weights():
    assert study.weights_of(study.SMALL) == study.weights_of(study.FULL) == 1_037_760
    one = decays()
    assert study.weights_of(TINY) == sum(value.numel() for value in one._start.values())
    spaces = one._spaces("many")
    assert {name: space.initial.shape for name, space in spaces.items()} == {
        name: value.shape for name, value in one._start.items()
    }


def test_decays_that_are_all_alike_are_one_decay():
    one = decays()
    batch = one._parts["train"]
    each = {name: torch.full_like(value, 0.3) for name, value in one._start.items()}
    alike = [
        torch_side.penalised(one._start, given, batch)
        for given in ({"all": torch.tensor(0.3)}, dict.fromkeys(each, torch.tensor(0.3)), each)
    ]
    squares = sum(float(value.square().sum()) for value in one._start.values())
    expected = float(torch_side.error(one._start, None, batch)) + 0.5 * 0.3 * squares
    assert [float(loss) for loss in alike] == pytest.approx([expected] * 3, rel=1e-6)


def test_hypergradients_of_all_decays_add_up_to_that_of_one():
    one = decays()
    method = ng.Implicit(solver=ng.Neumann(num_terms=5, step_size=1.0))
    given = {
        "one": {"all": torch.tensor(0.3)},
        "tensors": {name: torch.tensor(0.3) for name in one._start},
        "many": {name: torch.full_like(value, 0.3) for name, value in one._start.items()},
    }
    sums = {
        kind: sum(
            float(value.sum())
            for value in ng.hypergradient(
                one._problem(),
                one._start,
                hparams,
                method=method,
                inner_batch=one._parts["train"],
                outer_batch=one._parts["valid"],
            ).total.values()
        )
        for kind, hparams in given.items()
    }
    assert abs(sums["one"]) > 1e-4
    assert sums["tensors"] == pytest.approx(sums["one"], rel=1e-4)
    assert sums["many"] == pytest.approx(sums["one"], rel=1e-4)


def test_more_decays_fit_validation_rows_better_and_fixed_ones_stay():
    before = torch.get_rng_state()
    found = {kind: decays().learned(kind) for kind in study.KINDS}
    again = decays().learned("many")
    assert torch.equal(before, torch.get_rng_state())
    for name, value in again.items():
        np.testing.assert_array_equal(value, found["many"][name])
    for kind in ("fixed", "both"):
        np.testing.assert_allclose(found[kind]["decays"], TINY.decay, rtol=1e-5)
    assert found["one"]["decays"].shape == (1,)
    assert found["many"]["decays"].shape == (study.weights_of(TINY),)
    assert found["many"]["pixels"].shape == (64,)
    losses = {kind: float(one["valid_loss"][-1]) for kind, one in found.items()}
    assert losses["many"] < losses["one"] - 1e-3
    assert losses["many"] < losses["fixed"] - 1e-3
    assert losses["both"] < losses["fixed"] - 1e-3


def test_costs_are_measured_for_each_call():
    found = decays().costs()
    for name in ("training", *study.COSTS):
        assert found[f"{name}: seconds"].shape == (TINY.rounds,)
        assert (found[f"{name}: seconds"] > 0).all()
        assert found[f"{name}: bytes"] > 0
    assert found["step many: bytes"] > found["update many: bytes"]
    table = study._costs(TINY, found)
    assert [row[0] for row in table.rows] == list(study.COSTS.values())


@pytest.mark.parametrize("held", [0, 3])
def test_a_peak_is_that_above_what_was_held(held, capfd):
    def call():
        kept = [torch.zeros(50_000) for _ in range(3)]
        gone = torch.zeros(100_000)
        del gone
        return kept

    before = [torch.zeros(1000) for _ in range(held)]
    # The profiler's own accounts may be among torch's allocations.
    assert decays()._peak(call) == pytest.approx(4 * 250_000, abs=2000)
    assert len(before) == held
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"train_rows": 5000}, DataError, "5100 and 100 rows asked for"),
        ({"sizes": (784, 10, 10)}, OptionError, "784 inputs and 10 outputs, limit: 64 and 10, those of digits"),
    ],
)
def test_wrong_settings_are_named(changes, error, said):
    with pytest.raises(error, match=said):
        decays(**changes)


def test_the_command_draws_both_figures(lab):
    sizes = {"train_rows": 40, "valid_rows": 40, "test_rows": 40, "sizes": "64,8,10", "outer_rows": 40}
    sizes |= {"batch_rows": 20, "steps": 10, "looks": 2, "runs": 2, "cost_rows": 20, "rounds": 2}
    options = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "million-decays", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "Cost in training steps" in result.output
    for name in ("losses", "decays"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
