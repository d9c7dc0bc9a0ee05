"""The study of figures 3.3 and 3.4, on a made-up regression and on scikit-learn's digits."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.data.dataset import regression
from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import inverse_accuracy as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    log_decays=(-2.0,),
    warm_up=50,
    looks=(0, 10),
    terms=(1, 2, 3, 5, 400),
    cg_steps=(1, 2, 6),
    tuned_by=5,
    side=4,
    rows=200,
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture
def data(digits, monkeypatch):
    """A regression of five features, beside the digits."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 5))
    y = x @ draw.normal(size=5) + draw.normal(size=80)
    made = regression("made", x, y, np.split(np.arange(80), [40, 60]), tuple("abcde"))
    both = {"uci/boston": made, "mnist": digits}
    monkeypatch.setattr("nestgrad_lab.studies.torch_draws.load", both.__getitem__)
    return made


@pytest.fixture
def results(data):
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


def test_the_exact_hypergradient_is_that_of_the_formula(data):
    from nestgrad_lab.studies import torch_inverse_accuracy as torch_side

    run = torch_side._Regression(TINY, CONTEXT, -2.0)
    for _ in range(20):
        run.tune()
    w, decays = run._weights.detach().numpy(), run._logs.detach().exp().numpy()
    x, x_valid = (np.column_stack([part.x, np.ones(len(part))]) for part in (data.train, data.valid))
    hessian = x.T @ x / len(x) + np.diag(decays)
    outer = x_valid.T @ (x_valid @ w - data.valid.y[:, 0]) / len(x_valid)
    right = -decays * w * np.linalg.solve(hessian, outer)
    seen = run.seen()
    np.testing.assert_allclose(seen["exact"], right, rtol=1e-10)
    np.testing.assert_allclose(seen["cg"][-1], right, rtol=1e-8)  # as many steps as weights
    np.testing.assert_allclose(seen["neumann"][0], -decays * w * TINY.step_size * outer, rtol=1e-10)
    ends = np.linalg.eigvalsh(hessian)[[0, -1]]
    np.testing.assert_allclose([seen["smallest"], seen["largest"]], ends, rtol=1e-10)


def test_enough_terms_are_near_and_the_tables_say_so(results):
    one = results["λ from -2"]
    assert study.distances(one["neumann"][:, -1], one["exact"]).max() < 1e-6
    held, inverse, cosine, far = study.tables(TINY, results)
    assert [row[1] for row in held.rows] == [0, 10]
    assert held.rows[0][-1].endswith("of 2")
    assert [row[0] for row in inverse.rows] == list(TINY.orders)
    errors = [row[1] for row in inverse.rows]
    assert errors == sorted(errors, reverse=True)
    last = {row[1]: row[-1] for row in far.rows}
    assert last["CG 6"] < 1e-6 < last["CG 1"]
    assert {row[1]: row[-1] for row in cosine.rows}["CG 6"] == pytest.approx(1.0)


def test_errors_are_those_of_the_matrices():
    draw = np.random.default_rng(0)
    root = draw.normal(size=(6, 6))
    matrix = root @ root.T + np.eye(6)
    inverse, scale = np.linalg.inv(matrix), 0.7 / np.linalg.eigvalsh(matrix)[-1]
    for order, error in zip((0, 3), study.errors(np.linalg.eigvalsh(matrix), scale, (0, 3)), strict=True):
        series = scale * sum(np.linalg.matrix_power(np.eye(6) - scale * matrix, j) for j in range(order + 1))
        assert error == pytest.approx(np.linalg.norm(series - inverse) / np.linalg.norm(inverse), rel=1e-8)


def test_the_pictured_series_is_the_library_s(data):
    import torch

    import nestgrad_torch as ng
    from nestgrad_lab.studies import torch_inverse_accuracy as torch_side

    rows, classes = torch_side._small_images(TINY, CONTEXT)

    def inner(w, h, batch):
        return torch_side.classifier_loss(w, h, rows, classes)

    w = 0.1 * torch.randn(170, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = torch.randn(170, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch_side.hessian(lambda v: inner(v, 0.01, None), w))
    problem = ng.BilevelProblem(ng.Minimize(inner), outer_loss=lambda v, h, batch: along @ v)
    scale = 1.0 / float(values[-1])
    for order in (0, 3):
        method = ng.Implicit(solver=ng.Neumann(num_terms=order + 1, step_size=scale))
        decay = torch.tensor(0.01, dtype=torch.float64)
        adjoint = ng.hypergradient(problem, w, decay, method=method).adjoint
        torch.testing.assert_close(scale * torch_side.series_matrix(values, vectors, order) @ along, adjoint)


def test_the_pictures_are_of_a_minimum_and_tend_to_the_inverse(results):
    one = results[study.INVERSE]
    assert one["gradient"] < 1e-6
    assert one["eigenvalues"].min() > 0.99 * TINY.decay
    assert one["picture_series"].shape == (len(TINY.orders), 170, 170)
    apart = np.abs(one["picture_series"] - one["picture_inverse"]).max((1, 2))
    assert apart[-1] < 0.1 * apart[0]
    assert set(study.figures(TINY, results)) == {"hypergradients", "inverse"}


def test_wrong_data_are_named(data, digits, monkeypatch):
    with pytest.raises(OptionError, match="side 3, limit: square"):
        study.work(dataclasses.replace(TINY, side=3), study.pieces(TINY)[-1], CONTEXT)
    monkeypatch.setattr("nestgrad_lab.studies.torch_draws.load", lambda name: digits)
    with pytest.raises(OptionError, match="for classification, limit: regression"):
        study.work(TINY, study.pieces(TINY)[0], CONTEXT)
