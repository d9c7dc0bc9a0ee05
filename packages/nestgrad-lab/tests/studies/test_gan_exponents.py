"""The study of exponents along a GAN's training."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

import torch

import nestgrad_torch as ng
from nestgrad_lab.studies import gan_exponents as study
from nestgrad_lab.studies import mixture_gan_settings as mixture
from nestgrad_lab.studies.study import Context
from nestgrad_lab.studies.torch_mixture_gan import Gan

TINY = dataclasses.replace(
    study.SMALL,
    step_sizes=(0.05, 0.05),
    moduli=(0.0, 0.8),
    arguments=(0.0, math.pi / 4),
    hidden=2,
    batch=8,
    steps=4,
    every=2,
    num_steps=3,
    refinements=20,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


def test_the_largest_exponent_is_that_of_the_jacobian_of_play(results):
    gan = dataclasses.replace(mixture.SMALL, hidden=2, batch=8, steps=4)
    one = Gan(gan, CONTEXT, [(0.05, 0.0, 0.0)], [TINY.run])
    state, batch = one.begin(), one.batch(8)
    names = [(player, k) for player, own in state["players"].items() for k in own]
    sizes = [state["players"][player][k].numel() for player, k in names]

    def moved(vector):
        parts = torch.split(vector, sizes)
        players = {player: dict(own) for player, own in state["players"].items()}
        for (player, k), part in zip(names, parts, strict=True):
            players[player][k] = part.reshape(players[player][k].shape)
        after = {**state, "players": players}
        for _ in range(TINY.num_steps):
            after = one.play.update(after, batch)
        return torch.cat([after["players"][player][k].reshape(-1) for player, k in names])

    start = torch.cat([state["players"][player][k].reshape(-1) for player, k in names])
    jacobian = torch.autograd.functional.jacobian(moved, start)
    expected = math.log(float(torch.linalg.matrix_norm(jacobian, 2))) / TINY.num_steps
    found = next(iter(results.values()))["exponents"][0, 0]
    method = ng.LargestExponent(rtol=1e-6)
    whole = ng.lyapunov_exponents(lambda x: one.play.update(x, batch), state, num_steps=TINY.num_steps, method=method)
    largest = float(whole.exponents[0])
    assert largest >= expected - 1e-6  # the velocities' directions are in it too
    assert largest - 1e-3 <= found <= largest + 1e-6  # twenty refinements leave so much


def test_looks_tables_and_figures(results):
    for one in results.values():
        assert one["steps"].tolist() == [0, 2, 4]
        assert one["exponents"].shape == (3, TINY.exponents)
        assert (np.diff(one["exponents"], axis=1) <= 0.0).all()
    (table,) = study.tables(TINY, results)
    assert [row[0] for row in table.rows] == list(results)
    assert set(study.figures(TINY, results)) == {"exponents"}
