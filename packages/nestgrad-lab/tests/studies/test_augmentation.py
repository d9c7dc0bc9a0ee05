"""The study of figure 3.7, on scikit-learn's digits in place of CIFAR-10."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nestgrad_torch")

import nestgrad_torch as ng  # noqa: E402
from nestgrad_lab.errors import DataError, OptionError  # noqa: E402
from nestgrad_lab.studies import augmentation as study  # noqa: E402
from nestgrad_lab.studies import torch_augmentation as torch_side  # noqa: E402
from nestgrad_lab.studies import torch_augmenter  # noqa: E402
from nestgrad_lab.studies.study import Context  # noqa: E402

TINY = dataclasses.replace(
    study.SMALL,
    train_rows=60,
    valid_rows=80,
    test_rows=100,
    width=4,
    batch_rows=20,
    outer_rows=40,
    steps=27,
    outer_rate=0.05,
    samples=3,
    look=(0.5, 18),
    runs=2,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    from nestgrad_lab.data import load

    found = load("digits")
    monkeypatch.setattr(torch_side, "load", lambda name: found)


def augmenting(run=0, **changes):
    return torch_side.Augmenting(dataclasses.replace(TINY, **changes), CONTEXT, run=run)


def test_an_augmenter_adds_to_the_image_what_the_noise_makes_of_it():
    one = augmenting()
    u, images = one._augmenter(), one._train["x"][:5]
    noise = torch.randn(2, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    first, second = (torch_augmenter.augment(u, images, some) for some in noise)
    assert first.shape == images.shape
    assert not torch.allclose(first, second)
    nothing = {**u, "last.weight": torch.zeros_like(u["last.weight"])}
    torch.testing.assert_close(torch_augmenter.augment(nothing, images, noise[0]), images)


def test_the_regulariser_is_distance_less_spread():
    rng = np.random.default_rng(0)
    images, made = rng.normal(size=(4, 1, 2, 2)), rng.normal(size=(3, 4, 1, 2, 2))
    expected = np.abs(made - images).mean() - made.std(0, ddof=1).mean()
    found = torch_augmenter.distance_less_spread(torch.tensor(images), torch.tensor(made))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_regularised_outer_loss_has_a_direct_term_and_a_plain_one_has_none():
    found = augmenting().looked_at_directly()
    assert found["direct"] > 1e-3
    assert found["differences"] == pytest.approx(1.0, abs=2e-2)
    assert found["error"] > 1e-3
    assert found["cosine"] < 1.0

    one = augmenting()
    inner = {name: value[:20] for name, value in one._train.items()} | {"noise": one._drawn(20)}
    plain = ng.hypergradient(
        one._problem("identity", 0.0, 0.1),
        one._start,
        one._augmenter(),
        method=one._method("identity"),
        inner_batch=inner,
        outer_batch=one._valid,
    )
    assert all(not value.any() for value in plain.direct.values())
    assert any(value.any() for value in plain.indirect.values())


def test_a_prediction_by_an_augmenter_that_does_nothing_is_the_plain_images():
    one = augmenting()
    nothing = {name: torch.zeros_like(value) for name, value in one._augmenter().items()}
    found, plain = (one._judged(one._start, u, one._test) for u in (nothing, None))
    assert found["accuracy"] == plain["accuracy"] == plain["plain_accuracy"]
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_methods_differ_are_repeatable_and_draw_nothing_of_the_users():
    before = torch.get_rng_state()
    found = {method: augmenting().learned(method) for method in study.METHODS}
    again = augmenting().learned("neumann")
    assert torch.equal(before, torch.get_rng_state())
    for name, value in again.items():
        np.testing.assert_array_equal(value, found["neumann"][name])
    losses = [float(one["valid_loss"]) for one in found.values()]
    assert len(set(losses)) == len(study.METHODS)
    assert found["none"]["moved"] == 0.0
    assert all(found[method]["spread"] > 0.0 for method in ("identity", "neumann", "unrolled"))
    np.testing.assert_array_equal(found["none"]["images"], found["unrolled"]["images"])
    other = augmenting(run=1).learned("none")
    assert not np.array_equal(other["images"], found["none"]["images"])


def test_rates_fall_at_the_shares_asked_for():
    rates = torch_side._rates(100, 0.5, (0.3, 0.6))
    assert [(end, pytest.approx(rate)) for end, rate in rates] == [(30, 0.5), (60, 0.1), (float("inf"), 0.02)]
    assert torch_side._rates(100, 0.5, (1.0,))[0] == (100, 0.5)


def test_the_outer_sgd_moves_the_augmenter_elsewhere_than_adam_does():
    ends = [augmenting(outer_optimizer=name).learned("identity")["moved"] for name in ("adam", "sgd")]
    assert ends[0] != ends[1]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"train_rows": 5000}, DataError, "5080 and 100 rows asked for"),
        ({"network": "resnet"}, OptionError, "network 'resnet', limit: convolutions, resnet-18"),
        ({"outer_optimizer": "lion"}, OptionError, "outer_optimizer 'lion', limit: adam, sgd"),
    ],
)
def test_wrong_settings_are_named(changes, error, said):
    with pytest.raises(error, match=said):
        augmenting(**changes).learned("identity")


def test_differences_are_taken_within_a_run():
    names = [f"{part}_{what}" for part in ("valid", "test") for what in ("accuracy", "loss")]
    names += ["test_plain_accuracy", "train_accuracy", "moved", "spread"]
    results = {"direct term": dict.fromkeys(("direct", "indirect", "cosine", "error", "differences"), np.array(1.0))}
    for number, method in enumerate(study.METHODS):
        for run in range(2):
            results[f"{method}, run {run + 1}"] = {name: np.array(100.0 * run + number) for name in names}
    tables = study.tables(TINY, results)
    rows = {row[0]: row[1:] for row in tables[2].rows}
    assert rows["neumann - none"] == ["200 ± 0", "2 ± 0", "2 ± 0"]
    assert rows["neumann - unrolled"] == ["-100 ± 0", "-1 ± 0", "-1 ± 0"]
    assert tables[0].rows[0][3] == "50 ± 50"


def test_the_command_draws_both_figures(lab):
    sizes = {"train_rows": 30, "valid_rows": 40, "test_rows": 40, "width": 2, "steps": 9, "runs": 2, "look": "0.5,9"}
    options = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "augmentation", "--settings", "regularised", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "Learned augmentation" in result.output
    for name in ("methods", "images"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
