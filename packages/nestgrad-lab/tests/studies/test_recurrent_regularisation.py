"""The study of table 3.4, on words drawn at random in place of WikiText-2."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nestgrad_torch")

from nestgrad_lab.data.dataset import Dataset  # noqa: E402
from nestgrad_lab.data.text import windows  # noqa: E402
from nestgrad_lab.errors import DataError  # noqa: E402
from nestgrad_lab.networks import torch_networks  # noqa: E402
from nestgrad_lab.studies import recurrent_regularisation as study  # noqa: E402
from nestgrad_lab.studies import torch_recurrent_regularisation as torch_side  # noqa: E402
from nestgrad_lab.studies.study import Context  # noqa: E402

TINY = dataclasses.replace(
    study.SMALL,
    vocabulary=12,
    window=6,
    train_windows=20,
    valid_windows=15,
    test_windows=10,
    hidden=4,
    batch_rows=5,
    outer_rows=5,
    steps=24,
    looks=6,
    draws=2,
    runs=2,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


def text(name, window, vocabulary):
    """A data set of random words."""
    rng = np.random.default_rng(0)
    train, valid, test = (windows(rng.integers(0, vocabulary, 60 * window).astype(np.int32), window) for _ in range(3))
    return Dataset(
        name=name,
        task="classification",
        features=tuple(f"word{k}" for k in range(window)),
        classes=tuple(map(str, range(vocabulary))),
        train=train,
        valid=valid,
        test=test,
        x_shift=np.zeros(window),
        x_scale=np.ones(window),
        y_shift=0.0,
        y_scale=1.0,
        sha256="",
    )


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(torch_side, "load", text)


def model(run=0, **changes):
    return torch_side.LanguageModel(dataclasses.replace(TINY, **changes), CONTEXT, run=run)


def begin():
    return study.drawn(TINY, 0, 0, None)


def numbers(**changes):
    """Hyperparameters as the losses see them."""
    return {name: torch.tensor(value) for name, value in {**begin(), **changes}.items()}


def test_without_noise_it_is_the_labs_lstm_with_its_embedding_for_decoder():
    one = model()
    weights = {**one._start, "decoder.weight": one._start["embedding.weight"]}
    batch = one._valid
    scores = torch_networks.lstm(one._network, weights, batch["x"])
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch["y"].flatten())
    torch.testing.assert_close(one.outer_loss(one._start, None, batch), expected)


def test_the_relaxed_factor_has_the_mean_and_the_variance_of_dropout():
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rate in (0.1, 0.5):
        p = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        factor = torch_side.relaxed(p.detach(), noise)
        assert float(factor.mean()) == pytest.approx(1.0, abs=0.01)
        assert float(factor.var()) == pytest.approx(rate / (1 - rate), rel=0.02)
        (slope,) = torch.autograd.grad(torch_side.relaxed(p, noise[:1]).sum(), p)
        ends = [torch_side.relaxed(p.detach() + step, noise[:1]).sum() for step in (1e-6, -1e-6)]
        assert float(slope) == pytest.approx(float((ends[0] - ends[1]) / 2e-6), rel=1e-6)


def test_the_inner_loss_without_draws_is_the_outer_loss_and_the_penalties():
    one = model()
    still = {name: torch.zeros_like(value) for name, value in one._drawn().items()}
    states = torch_side.states(one._network, one._start, one._valid["x"])
    batch = {**one._valid, **{name: value[..., :1, :] if name in _ROWS else value for name, value in still.items()}}
    plain = one.outer_loss(one._start, None, one._valid)
    found = one.inner_loss(one._start, numbers(alpha=0.7, beta=3.0), batch)
    expected = plain + 0.7 * states.square().mean() + 3.0 * states.diff(dim=1).square().mean()
    torch.testing.assert_close(found, expected)


_ROWS = ("input", "hidden", "output")


@pytest.mark.parametrize("name", study.RATES)
def test_each_rate_acts(name):
    one = model()
    batch = {**{key: value[:5] for key, value in one._train.items()}, **one._drawn()}
    losses = [float(one.inner_loss(one._start, numbers(**{name: rate}), batch)) for rate in (0.05, 0.5)]
    assert losses[0] != losses[1]


def test_many_are_as_many_as_in_the_released_code_and_two_more():
    assert study.counted(study.FULL) == 1_691_951 + 2
    spaces = model().spaces("many", begin())
    assert sum(torch.as_tensor(space.initial).numel() for space in spaces.values()) == study.counted(TINY)
    assert sum(torch.as_tensor(space.initial).numel() for space in model().spaces("seven", begin()).values()) == 7


def test_untuned_hyperparameters_stay_and_tuned_ones_move():
    before = torch.get_rng_state()
    found = {method: model().learned(method, begin()) for method in ("untuned", "seven", "many")}
    again = model().learned("many", begin())
    assert torch.equal(before, torch.get_rng_state())
    for name, value in again.items():
        np.testing.assert_array_equal(value, found["many"][name])
    for name, value in begin().items():
        np.testing.assert_allclose(found["untuned"][name], value, rtol=1e-5)
        assert found["seven"][name][-1] != pytest.approx(value, rel=1e-3)
        assert found["many"][name][-1] != pytest.approx(value, rel=1e-3)
    assert len(set(found["many"]["all output"])) == TINY.hidden
    assert len(found["many"]["all connect"]) == 4 * TINY.hidden**2
    assert found["seven"]["valid"][0] != found["untuned"]["valid"][0]


def test_the_rate_falls_where_validation_does_not(monkeypatch):
    rates = []
    right = torch_side.LanguageModel._tuner
    monkeypatch.setattr(
        torch_side.LanguageModel, "_tuner", lambda self, *given: rates.append(given[-1]) or right(self, *given)
    )
    monkeypatch.setattr(torch_side.LanguageModel, "_losses", lambda self, w: {"train": 1.0, "valid": 1.0, "test": 1.0})
    model(patience=2, drops=1).learned("seven", begin())
    assert rates == [TINY.rate, TINY.rate / 4]


def test_draws_are_within_their_ranges_and_each_is_another():
    found = [study.drawn(TINY, 0, run, draw) for run in range(3) for draw in range(20)]
    assert len({one["input"] for one in found}) == 60
    for one in found:
        assert all(0.0 < one[name] < TINY.highest_rate for name in study.RATES)
        assert all(TINY.penalties[0] <= one[name] <= TINY.penalties[1] for name in study.PENALTIES)
    assert study.drawn(TINY, 0, 1, 1) == study.drawn(TINY, 0, 1, 1)


def test_random_search_is_judged_by_its_best_draw_at_its_best_look():
    def losses(*valid):
        return {"valid": np.array(valid), "test": np.array(valid) + 1.0, "train": np.array(valid) - 1.0}

    results = {
        f"random, run {run + 1}, draw {draw + 1}": losses(3.0 + draw, 2.0 + draw + run, np.nan)
        for run in range(2)
        for draw in range(2)
    }
    found = study.judged(TINY, results, "random")
    np.testing.assert_array_equal(found["valid, best"], [2.0, 3.0])
    np.testing.assert_array_equal(found["test, best"], [3.0, 4.0])


def test_too_many_windows_are_refused():
    with pytest.raises(DataError, match="500 windows asked for, limit: 59, all there are"):
        model(valid_windows=500)


def test_the_command_draws_both_figures(lab):
    sizes = {"vocabulary": 12, "window": 6, "train_windows": 20, "valid_windows": 15, "test_windows": 10, "hidden": 4}
    sizes |= {"batch_rows": 5, "outer_rows": 5, "steps": 6, "looks": 3, "draws": 2, "runs": 2}
    options = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "recurrent-regularisation", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "Perplexity of a word" in result.output
    for name in ("losses", "hyperparameters"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
