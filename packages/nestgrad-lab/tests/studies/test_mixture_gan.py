"""The study of a GAN of eight Gaussians."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")
pytest.importorskip("nestgrad_reference")

import torch

import nestgrad_torch as ng
from nestgrad_lab.studies import mixture_gan as study
from nestgrad_lab.studies import torch_mixture_gan as torch_side
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    hidden=3,
    layers=1,
    latent=2,
    batch=8,
    steps=20,
    step_sizes=(0.05,),
    moduli=(0.3, 0.6),
    arguments=(0.0, math.pi / 4),
    choosing_seeds=1,
    judging_seeds=2,
    samples=50,
    spectrum_rows=16,
)


def context(results=None):
    return Context(seed=0, device="cpu", backend="torch", results=results or {}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    found = {}
    for piece in study.pieces(TINY):
        found[piece.name] = study.work(TINY, piece, context({name: found[name] for name in piece.needs}))
    return found


def test_runs_at_once_are_the_runs_alone():
    choices = [(0.05, 0.5, 0.3), (0.2, 0.9, math.pi)]
    together = torch_side.Gan(TINY, context(), choices, [3, 4])
    seen = together.run(lambda share: None)["samples"]
    assert seen.shape == (10, 2, 2, TINY.samples, 2)
    for k, choice in enumerate(choices):
        for j, seed in enumerate((3, 4)):
            alone = torch_side.Gan(TINY, context(), [choice], [seed]).run(lambda share: None)["samples"]
            np.testing.assert_allclose(seen[:, k, j], alone[:, 0, 0], atol=1e-4)
    assert np.abs(seen[-1, 0] - seen[-1, 1]).max() > 1e-3


def test_a_run_is_that_of_the_drop_in_optimizer():
    gan = torch_side.Gan(TINY, context(), [(0.05, 0.7, 0.5)], [0])
    twin = torch_side.Gan(TINY, context(), [(0.05, 0.7, 0.5)], [0])
    gan.run(lambda share: None)
    players = {name: {k: x.clone().requires_grad_() for k, x in one.items()} for name, one in twin.players.items()}
    rules = {name: ng.optim.ComplexMomentum(list(one.values()), 0.05, 0.7, 0.5) for name, one in players.items()}
    for _ in range(TINY.steps):
        batch = twin._batch(TINY.batch)
        for name, rule in rules.items():
            rule.zero_grad()
            slopes = torch.autograd.grad(twin.game.losses[name](players, batch), list(players[name].values()))
            for weight, slope in zip(players[name].values(), slopes, strict=True):
                weight.grad = slope
            rule.step()
    for name, one in players.items():
        for k, x in one.items():
            torch.testing.assert_close(gan.players[name][k], x.detach(), atol=1e-5, rtol=1e-4)


def test_scores_count_modes_and_good_samples():
    middles = study.centres(TINY)
    assert np.linalg.norm(middles, axis=1) == pytest.approx(TINY.radius)
    all_modes = np.repeat(middles, 25, 0)
    one_mode = np.repeat(middles[:1], 200, 0)
    half = np.concatenate([all_modes[:100], np.full((100, 2), 50.0)])
    diverged = np.full((200, 2), np.nan)
    found = study.scores(TINY, np.stack([all_modes, one_mode, half, diverged])[None, None])
    assert found["modes"][0, 0].tolist() == [8.0, 1.0, 4.0, 0.0]
    assert found["good"][0, 0].tolist() == [1.0, 1.0, 0.5, 0.0]
    likelihood = found["likelihood"][0, 0]
    assert likelihood[0] > likelihood[2] > likelihood[1] > likelihood[3] == -math.inf


def test_the_log_density_is_that_of_normals():
    rows, samples = np.array([[0.3, -0.2]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    densities = [math.exp(-((rows[0] - each) ** 2).sum() / 0.5) / (0.5 * math.pi) for each in samples]
    assert study.log_density(rows, samples, 0.5) == pytest.approx(math.log(sum(densities) / 2), rel=1e-12)


def test_choices_are_made_on_one_kind_of_seeds_and_judged_on_another(results):
    values = {"modes": np.array([[[3.0], [5.0]]]), "likelihood": np.array([[[-1.0], [-2.0]]])}
    assert study.best_cell(dataclasses.replace(TINY, looks=1), values) == 1
    values["modes"][:] = 5.0
    assert study.best_cell(dataclasses.replace(TINY, looks=1), values) == 0
    assert results["judged"]["modes"].shape == (10, 2, 2)
    assert [one[2] for one in study.chosen(TINY, results)] == list(TINY.arguments)
    assert study.best_of(TINY, results, "real") == 0
    assert study.best_of(TINY, results, "complex") == 1


def test_the_spectrum_is_of_the_judged_run(results):
    one = study.as_complex(results["spectrum, complex"]["eigenvalues"])
    generator, discriminator = (2 * 3 + 3) + (3 * 2 + 2), (2 * 3 + 3) + (3 + 1)
    assert len(one) == generator + discriminator
    np.testing.assert_allclose(np.sort_complex(one), np.sort_complex(one.conj()), atol=1e-10)  # of a real matrix
    kept = study.leading(one)
    assert (kept.real >= 0.0).all()
    assert np.abs(kept).min() >= study.KEPT * np.abs(one).max()
    assert not np.allclose(
        np.sort_complex(one), np.sort_complex(study.as_complex(results["spectrum, real"]["eigenvalues"]))
    )


def test_tables_and_figures(results):
    best, verdict, spectra = study.tables(TINY, results)
    assert [row[0] for row in best.rows] == ["0", "π/4"]
    modes = study.last(TINY, results["judged"]["modes"]).mean(1)
    assert verdict.rows[0][-1] == (modes[1] >= modes[0])
    assert [row[0] for row in spectra.rows] == ["real", "complex"]
    assert set(study.figures(TINY, results)) == {"samples", "modes", "progress", "spectrum"}
