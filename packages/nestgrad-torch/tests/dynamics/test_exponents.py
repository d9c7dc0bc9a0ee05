"""Exponents against dense Jacobians and closed forms; what does not fit is named; nothing of the user's changes."""

import gc
import math
import weakref

import pytest
import torch

import nestgrad_torch as ng

D = torch.float64


def rand(*shape, seed=0):
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


MIX = rand(4, 4, seed=5)
LARGEST = ng.LargestExponent(rtol=1e-9, max_refinements=10_000)


def turn(p):
    """A map of four entries with a step count, which part, fold and turn."""
    x = torch.cat([p["b"].reshape(-1), p["a"]])
    moved = x + 0.2 * torch.sin(MIX @ x) - 0.05 * x**3
    return {"a": moved[2:], "b": moved[:2].reshape(2, 1), "step": p["step"] + 1}


def start():
    return {"step": 3, "b": rand(2, 1, seed=1), "a": rand(2, seed=2)}


def jacobians(num_steps):
    """The dense ones along the way, entries in the order of sorted keys."""
    found, p = [], start()
    for _ in range(num_steps):

        def joined(x, p=p):
            after = turn({"a": x[:2], "b": x[2:].reshape(2, 1), "step": p["step"]})
            return torch.cat([after["a"], after["b"].reshape(-1)])

        x = torch.cat([p["a"], p["b"].reshape(-1)])
        found.append(torch.autograd.functional.jacobian(joined, x))
        p = turn(p)
    return found, p


def product(matrices):
    found = torch.eye(len(matrices[0]), dtype=D)
    for matrix in matrices:
        found = matrix @ found
    return found


@pytest.mark.parametrize("num_steps", [1, 7, 40])
def test_y2_the_sum_of_the_spectrum_is_the_mean_log_determinant(num_steps):
    dense, end = jacobians(num_steps)
    found = ng.lyapunov_exponents(turn, start(), num_steps=num_steps)
    expected = sum(float(torch.linalg.slogdet(matrix)[1]) for matrix in dense) / num_steps
    assert float(found.exponents.sum()) == pytest.approx(expected, abs=1e-12)
    assert found.products == 4 * num_steps
    assert found.end["step"] == 3 + num_steps
    assert torch.equal(found.end["a"], end["a"])
    assert torch.equal(found.end["b"], end["b"])
    assert float(found.entropy) == pytest.approx(sum(max(x, 0.0) for x in found.exponents.tolist()))


def test_the_spectrum_of_the_unit_directions_is_that_of_a_dense_qr():
    dense, _ = jacobians(5)
    q, logs = torch.eye(4, dtype=D), torch.zeros(4, dtype=D)
    for matrix in dense:
        q, r = torch.linalg.qr(matrix @ q)
        logs += r.diagonal().abs().log()
    found = ng.lyapunov_exponents(turn, start(), num_steps=5)
    assert torch.allclose(found.exponents, logs / 5, rtol=0, atol=1e-13)
    rows = torch.cat([found.directions["a"], found.directions["b"].reshape(4, -1)], dim=1)
    assert torch.equal(rows, torch.eye(4, dtype=D))
    assert torch.equal(found.directions["step"], torch.zeros(4, dtype=D))


@pytest.mark.parametrize("num_steps", [6, 40])
def test_refined_directions_and_the_largest_exponent_are_those_of_the_product(num_steps):
    dense, _ = jacobians(num_steps)
    _, sizes, rows = torch.linalg.svd(product(dense))
    found = ng.lyapunov_exponents(
        turn, start(), num_steps=num_steps, method=ng.ExponentSpectrum(num_exponents=2, refinements=40)
    )
    assert torch.allclose(found.exponents, sizes[:2].log() / num_steps, rtol=0, atol=1e-12)
    assert found.products == 2 * num_steps * 81
    top = torch.cat([found.directions["a"][0], found.directions["b"][0].reshape(-1)])
    assert abs(float(top @ rows[0])) == pytest.approx(1.0, abs=1e-12)
    largest = ng.lyapunov_exponents(turn, start(), num_steps=num_steps, method=LARGEST)
    assert float(largest.exponents[0]) == pytest.approx(math.log(sizes[0]) / num_steps, abs=1e-14)
    assert largest.products % (2 * num_steps) == 0
    assert largest.directions["b"].shape == (1, 2, 1)


def test_y6_tuned_at_every_step_bounds_from_above_and_at_the_first_from_below():
    dense, _ = jacobians(9)
    largest = float(torch.linalg.svdvals(product(dense))[0].log()) / 9
    above, below = (
        ng.lyapunov_exponents(
            turn, start(), num_steps=9, method=ng.TunedDirection(at=at, rtol=1e-9, max_refinements=10_000)
        )
        for at in ("every step", "first step")
    )
    expected = sum(float(torch.linalg.svdvals(matrix)[0].log()) for matrix in dense) / 9
    assert float(above.exponents[0]) == pytest.approx(expected, abs=1e-13)
    first = torch.linalg.svd(dense[0])[2][0]
    along = torch.linalg.vector_norm(product(dense) @ first)
    assert float(below.exponents[0]) == pytest.approx(math.log(along) / 9, abs=1e-8)
    assert float(below.exponents[0]) <= largest <= float(above.exponents[0])


def test_y1_a_linear_map():
    matrix = rand(3, 3, seed=3)
    radius = float(torch.linalg.eigvals(matrix).abs().max())
    found = ng.lyapunov_exponents(
        lambda x: matrix @ x, torch.ones(3, dtype=D), num_steps=600, directions=rand(1, 3, seed=4)
    )
    assert float(found.exponents[0]) == pytest.approx(math.log(radius), abs=5e-3)
    symmetric = matrix + matrix.T
    radius = float(torch.linalg.eigvalsh(symmetric).abs().max())
    for num_steps in (1, 3, 30):
        found = ng.lyapunov_exponents(
            lambda x: symmetric @ x, torch.ones(3, dtype=D), num_steps=num_steps, method=LARGEST
        )
        assert float(found.exponents[0]) == pytest.approx(math.log(radius), abs=1e-13)


def game_of(loss):
    return ng.Game({"w": lambda p, _: loss(p["w"])})


def test_y3_descent_of_one_weight():
    rate, w, logs = 0.1, 1.7, []
    play = ng.Play(game_of(lambda w: 0.25 * w**4 - 0.5 * w**2), optimizer=ng.optim.sgd(rate))
    found = ng.lyapunov_exponents(play.update, play.init({"w": torch.tensor(w, dtype=D)}), num_steps=8)
    for _ in range(8):
        logs.append(math.log(abs(1.0 - rate * (3.0 * w**2 - 1.0))))
        w -= rate * (w**3 - w)
    assert float(found.exponents[0]) == pytest.approx(sum(logs) / 8, abs=1e-14)
    assert float(found.end["players"]["w"]) == pytest.approx(w, abs=1e-14)


def test_y4_a_bilinear_game_is_not_doubled():
    sigma, rate = 1.3, 0.2
    game = ng.Game({"x": lambda p, _: sigma * p["x"] * p["y"], "y": lambda p, _: -sigma * p["x"] * p["y"]})
    play = ng.Play(game, optimizer=ng.optim.sgd(rate))
    point = play.init({"x": torch.tensor(0.3, dtype=D), "y": torch.tensor(0.1, dtype=D)})
    expected = 0.5 * math.log(1.0 + (rate * sigma) ** 2)
    for num_steps in (1, 5):
        found = ng.lyapunov_exponents(play.update, point, num_steps=num_steps)
        assert found.exponents.tolist() == pytest.approx([expected] * 2, abs=1e-15)


def test_y5_the_logistic_map():
    found = ng.lyapunov_exponents(lambda x: 4 * x * (1 - x), torch.tensor(0.3141592, dtype=D), num_steps=2000)
    assert float(found.exponents[0]) == pytest.approx(math.log(2), abs=1e-3)


def test_y7_at_a_fixed_point_the_sign_changes_at_the_bifurcation():
    for rate, curvatures, expected in ((0.1, [1.0, 5.0], math.log(0.9)), (0.5, [1.0, 5.0], math.log(1.5))):
        h = torch.tensor(curvatures, dtype=D)
        play = ng.Play(game_of(lambda w, h=h: 0.5 * (h * w * w).sum()), optimizer=ng.optim.sgd(rate))
        point = play.init({"w": torch.zeros(2, dtype=D)})
        found = ng.lyapunov_exponents(play.update, point, num_steps=4, method=LARGEST)
        assert float(found.exponents[0]) == pytest.approx(expected, abs=1e-13)


def test_y8_with_momentum_the_exponents_are_those_of_the_characteristic_roots():
    rate, beta, h = 0.1, 0.6, 2.0
    play = ng.Play(game_of(lambda w: 0.5 * h * w * w), optimizer=ng.optim.sgd(rate, momentum=beta))
    point = play.init({"w": torch.tensor(1.0, dtype=D)})
    found = ng.lyapunov_exponents(play.update, point, num_steps=400)
    assert float(found.exponents.sum()) == pytest.approx(math.log(beta), abs=1e-13)
    roots = torch.linalg.eigvals(torch.tensor([[1 + beta - rate * h, -beta], [1.0, 0.0]], dtype=D)).abs().log()
    assert sorted(found.exponents.tolist()) == pytest.approx(sorted(roots.tolist()), abs=5e-3)


def test_a_direction_that_is_wiped_out_is_minus_infinity_and_leaves_those_before_it():
    found = ng.lyapunov_exponents(
        lambda x: torch.stack([2.0 * x[0], 0.0 * x[1], 3.0 * x[2]]), torch.ones(3, dtype=D), num_steps=5
    )
    assert found.exponents[:2].tolist() == [pytest.approx(math.log(2), abs=1e-15), -math.inf]
    for method in (
        ng.ExponentSpectrum(num_exponents=1),
        LARGEST,
        ng.TunedDirection(),
        ng.TunedDirection(at="first step"),
    ):
        found = ng.lyapunov_exponents(lambda x: 0.0 * x, torch.ones(2, dtype=D), num_steps=3, method=method)
        assert found.exponents.tolist() == [-math.inf]


def test_no_number_of_steps_under_or_overflows():
    for factor in (1e-3, 1e3):
        scale = torch.tensor([factor, factor / 2], dtype=D)
        found = ng.lyapunov_exponents(
            lambda x, scale=scale: scale * (x - x.detach()) + x.detach(), torch.ones(2, dtype=D), num_steps=300
        )
        assert found.exponents.tolist() == pytest.approx(scale.log().tolist(), rel=1e-13)


def test_in_single_precision():
    found = ng.lyapunov_exponents(
        lambda p: {"w": p["w"] * torch.tensor([0.5, 3.0])}, {"w": torch.ones(2)}, num_steps=3, method=LARGEST
    )
    assert found.exponents.dtype is torch.float32
    assert float(found.exponents[0]) == pytest.approx(math.log(3.0), rel=1e-6)


def test_directions_are_drawn_from_the_seed_or_orthonormalised():
    one, same, other = (
        ng.lyapunov_exponents(turn, start(), num_steps=2, method=ng.ExponentSpectrum(num_exponents=2, seed=seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.directions["a"], same.directions["a"])
    assert not torch.equal(one.directions["a"], other.directions["a"])
    given = {"a": rand(2, 2, seed=8), "b": rand(2, 2, 1, seed=9), "step": 0}
    found = ng.lyapunov_exponents(turn, start(), num_steps=2, directions=given).directions
    rows = torch.cat([found["a"], found["b"].reshape(2, -1)], dim=1)
    assert torch.allclose(rows @ rows.T, torch.eye(2, dtype=D), atol=1e-14)
    first = torch.cat([given["a"][0], given["b"][0].reshape(-1)])
    assert torch.allclose(rows[0], first / first.norm(), atol=1e-14)


def test_a_map_that_draws_draws_the_same_in_every_sweep_and_leaves_the_generator():
    def noisy(x):
        return x * (1.0 + torch.rand((), dtype=D)) + 0.1 * x.flip(0)

    torch.manual_seed(3)
    factors = 1.0 + torch.rand(30, dtype=D)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = ng.lyapunov_exponents(noisy, torch.ones(2, dtype=D), num_steps=30, method=LARGEST)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(found.exponents[0]) == pytest.approx(float((factors + 0.1).log().mean()), abs=1e-13)


def test_nothing_of_the_users_changes():
    point = start()
    before = {name: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for name, leaf in point.items()}
    generator = torch.get_rng_state()
    given = {"a": rand(1, 2), "b": rand(1, 2, 1), "step": 0}
    kept = given["a"].clone()
    with torch.no_grad():
        ng.lyapunov_exponents(turn, point, num_steps=3, method=LARGEST, directions=given)
        ng.lyapunov_gradient(turn, point, num_steps=3)
    assert torch.equal(point["a"], before["a"])
    assert torch.equal(point["b"], before["b"])
    assert not point["a"].requires_grad
    assert torch.equal(given["a"], kept)
    assert torch.equal(torch.get_rng_state(), generator)


ONES = torch.ones(2, dtype=D)
REFUSED = {
    "result's shape": (lambda p: {"w": p["w"][:1]}, {"w": ONES}, {}, r"update's result\['w'\]: got .*\(1,\).*\(2,\)"),
    "result's dtype": (lambda p: {"w": p["w"].float()}, {"w": ONES}, {}, r"result\['w'\]: got torch.float32.*float64"),
    "result's keys": (lambda p: {"v": p["w"]}, {"w": ONES}, {}, r"update's result: tree: 2 paths.*the first is 'v'"),
    "a count": (lambda p: {"w": p["w"], "n": 1.0}, {"w": ONES, "n": 1}, {}, r"result\['n'\]: got float, limit: int"),
    "no path": (lambda p: {"w": p["w"].detach()}, {"w": ONES}, {}, "0 paths from the point.*Play.update"),
    "no floats": (lambda p: p, {"w": torch.arange(2)}, {}, "point has 0 floating entries in 1 leaves"),
    "a string": (lambda p: p, {"w": ONES, "n": "x"}, {}, r"point\['n'\]: got str, limit: a tensor or an int"),
    "complex": (lambda p: p, {"w": ONES.to(torch.complex128)}, {}, r"point\['w'\]: got torch.complex128"),
    "half": (lambda p: p, {"w": ONES.half()}, {}, r"point\['w'\]: got torch.float16, limit: torch.float32 or"),
    "two dtypes": (lambda p: p, {"w": ONES, "v": ONES.float()}, {}, r"point\['w'\] is torch.float64, limit: torch.f"),
    "num_steps": (lambda p: p, {"w": ONES}, {"num_steps": 0}, "lyapunov_exponents: num_steps=0, limit"),
    "method": (lambda p: p, {"w": ONES}, {"method": "qr"}, "method 'qr', limit: one of nestgrad.ExponentMethod"),
    "too many": (
        lambda p: p,
        {"w": ONES},
        {"method": ng.ExponentSpectrum(num_exponents=3)},
        "num_exponents=3, limit: 2",
    ),
    "directions' keys": (lambda p: p, {"w": ONES}, {"directions": {"v": ONES}}, "directions: tree: 2 paths"),
    "directions' shape": (lambda p: p, {"w": ONES}, {"directions": {"w": ONES}}, r"directions\['w'\]: got \(2,\)"),
    "directions' dtype": (
        lambda p: p,
        {"w": ONES},
        {"directions": {"w": torch.ones(1, 2)}},
        r"directions\['w'\] is torch.float32 on cpu, limit: torch.float64",
    ),
    "too many given": (
        lambda p: p,
        {"w": ONES},
        {"directions": {"w": torch.eye(2, dtype=D)}, "method": ng.LargestExponent()},
        "directions: got 2, limit: 1 as LargestExponent asks",
    ),
    "more than entries": (lambda p: p, {"w": ONES}, {"directions": {"w": rand(3, 2)}}, "directions: got 3, limit: 2"),
    "dependent": (
        lambda p: p,
        {"w": ONES},
        {"directions": {"w": torch.stack([ONES, 2 * ONES])}},
        "directions: number 1 has length 2.82843, of which .* is not in those before it",
    ),
    "zero": (lambda p: p, {"w": ONES}, {"directions": {"w": 0 * ONES[None]}}, "directions: number 0 has length 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(case):
    update, point, others, message = REFUSED[case]
    with pytest.raises(ng.InvalidInput, match=message):
        ng.lyapunov_exponents(update, point, **{"num_steps": 2, **others})


def test_a_step_that_is_not_finite_is_numbered():
    def doubling(x):
        return x * x

    with pytest.raises(ng.NonFinite, match="step 3 of 9: the place it leads to or a direction's growth is NaN"):
        ng.lyapunov_exponents(doubling, torch.tensor([1e40], dtype=D), num_steps=9)
    with pytest.raises(ng.NonFinite, match="the point is NaN or infinite"):
        ng.lyapunov_exponents(doubling, torch.tensor([math.nan], dtype=D), num_steps=9, method=LARGEST)
    with pytest.raises(ng.NonFinite, match="step 3 of 9"):
        ng.lyapunov_exponents(doubling, torch.tensor([1e40], dtype=D), num_steps=9, method=ng.TunedDirection())
    found = ng.lyapunov_exponents(doubling, torch.tensor([1e40], dtype=D), num_steps=9, throw=False)
    assert not math.isfinite(float(found.exponents[0]))


def test_a_search_that_does_not_end_says_how_far_it_came():
    close = torch.tensor([1.0, 0.999], dtype=D)
    spec = ng.LargestExponent(rtol=1e-9, max_refinements=3)
    with pytest.raises(
        ng.NotConverged, match=r"LargestExponent of 2 steps: residual .* after 3 refinements, limit rtol=1e-09"
    ):
        ng.lyapunov_exponents(lambda x: close * x, ONES, num_steps=2, method=spec)
    found = ng.lyapunov_exponents(lambda x: close * x, ONES, num_steps=2, method=spec, throw=False)
    assert -1e-3 < float(found.exponents[0]) < 0.0
    with pytest.raises(ng.NotConverged, match="TunedDirection of step 1: residual"):
        ng.lyapunov_exponents(
            lambda x: close * x, ONES, num_steps=2, method=ng.TunedDirection(rtol=1e-9, max_refinements=3)
        )


def test_nothing_is_left_when_the_numbers_are_there():
    kept = []

    def watched(p):
        kept.append(weakref.ref(p["a"]))
        return turn(p)

    gc.collect()
    gc.disable()
    try:
        ng.lyapunov_exponents(watched, start(), num_steps=6, method=ng.ExponentSpectrum(refinements=2))
        ng.lyapunov_gradient(watched, start(), num_steps=40)
        assert len(kept) > 46
        assert [ref() for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


def test_what_torch_cannot_batch_is_taken_in_turn():
    class Looking(torch.autograd.Function):
        """sin x, whose backward looks at its numbers on the host."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, slope):
            seen = len(looks) if bool(slope.isfinite().all()) else math.nan
            looks.append(seen)
            return slope * ctx.saved_tensors[0].cos()

    looks = []
    method = ng.ExponentSpectrum(num_exponents=3, refinements=2)
    plain, looked = (
        ng.lyapunov_exponents(lambda x, f=f: x + 0.3 * f(MIX @ x), torch.ones(4, dtype=D), num_steps=3, method=method)
        for f in (torch.sin, Looking.apply)
    )
    assert len(looks) > 3
    assert torch.allclose(plain.exponents, looked.exponents, rtol=0, atol=1e-14)
