"""Derivatives of exponents: against differences, against the reference's numbers, and flat in the number of steps."""

import math
import weakref

import pytest
import torch

import nestgrad_torch as ng
from nestgrad_torch._dynamics import chain

D = torch.float64
MIX = torch.tensor([[0.5, -1.0, 0.25], [1.5, 0.75, -0.5], [-0.25, 1.0, 1.25]], dtype=D)
POINT = {"w": torch.tensor([0.3, -0.7, 1.1], dtype=D)}
GIVEN = {"w": torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]], dtype=D)}
LARGEST = ng.LargestExponent(rtol=1e-8, max_refinements=10_000)
TUNED = ng.TunedDirection(rtol=1e-8, max_refinements=10_000)


def turn(p):
    w = p["w"]
    return {"w": w + 0.2 * torch.sin(MIX @ w) - 0.05 * w**3}


REFERENCE = {
    "largest": ({"method": LARGEST}, [0.06331185486690144, 0.07491826288887807, -0.0655515221184173]),
    "sum": ({"directions": GIVEN}, [0.10902235377899111, -0.1808836393548335, -0.4995986125942788]),
    "smallest": ({"directions": GIVEN}, [-0.01634428993323598, -0.2771494136197621, -0.453656305460528]),
    "entropy": ({}, [0.00405116216115336, 0.11290761097392643, -0.03514162258813484]),
    "tuned": (
        {"method": TUNED, "objective": "largest"},
        [0.06817600208414137, 0.10043447024558926, -0.05458278901853283],
    ),
}


@pytest.mark.parametrize("case", REFERENCE)
def test_derivatives_are_the_references(case):
    given, expected = REFERENCE[case]
    found = ng.lyapunov_gradient(turn, POINT, num_steps=6, **{"objective": case, **given})
    assert found.gradient["w"].tolist() == pytest.approx(expected, abs=1e-7 if "method" in given else 1e-13)


def objective(name, exponents):
    match name:
        case "largest":
            return exponents.max()
        case "smallest":
            return exponents.min()
        case "sum":
            return exponents.sum()
        case _:
            return exponents.clamp(min=0.0).sum()


def differences(function, size=1e-5):
    slope = torch.zeros(3, dtype=D)
    for which in range(3):
        there = torch.zeros(3, dtype=D)
        there[which] = size
        slope[which] = (function(POINT["w"] + there) - function(POINT["w"] - there)) / (2 * size)
    return slope


@pytest.mark.parametrize("num_steps", [1, 5, 40])
@pytest.mark.parametrize("name", ["largest", "smallest", "sum", "entropy"])
def test_derivatives_are_those_of_differences(name, num_steps):
    def value(w):
        found = ng.lyapunov_exponents(turn, {"w": w}, num_steps=num_steps, directions=GIVEN)
        return objective(name, found.exponents)

    found = ng.lyapunov_gradient(turn, POINT, num_steps=num_steps, objective=name, directions=GIVEN)
    assert torch.allclose(found.gradient["w"], differences(value), rtol=1e-5, atol=1e-8)
    assert float(found.value) == pytest.approx(float(value(POINT["w"])), abs=1e-14)
    assert found.found.products == 2 * num_steps


@pytest.mark.parametrize("method", [LARGEST, TUNED], ids=["largest", "tuned"])
def test_where_directions_are_sought_it_is_the_singular_values_own(method):
    def value(w):
        return ng.lyapunov_exponents(turn, {"w": w}, num_steps=8, method=method).exponents[0]

    found = ng.lyapunov_gradient(turn, POINT, num_steps=8, method=method)
    assert torch.allclose(found.gradient["w"], differences(value), rtol=1e-5, atol=1e-7)
    assert found.products == found.found.products + 16


def test_two_products_for_each_that_it_goes_through_up_to_the_last_column_that_matters():
    def costs(name):
        found = ng.lyapunov_gradient(turn, POINT, num_steps=6, objective=name, directions=GIVEN)
        return found.products - found.found.products

    assert (costs("largest"), costs("sum"), costs("smallest")) == (12, 24, 24)
    still = ng.lyapunov_gradient(lambda p: {"w": 0.5 * p["w"]}, POINT, num_steps=6, objective="entropy")
    assert still.products == still.found.products
    assert still.gradient["w"].tolist() == [0.0, 0.0, 0.0]


def test_of_play_it_is_in_players_and_optimizer_state():
    game = ng.Game({"w": lambda p, _: (p["w"] ** 4).sum() / 4 - (p["w"] ** 2).prod()})
    play = ng.Play(game, optimizer=ng.optim.sgd(0.1, momentum=0.5))
    point, _ = play.step(play.init({"w": torch.tensor([0.7, -0.4], dtype=D)}))
    found = ng.lyapunov_gradient(play.update, point, num_steps=4, method=LARGEST)
    assert float(found.gradient["step"]) == 0.0
    for part in (("players", "w"), ("opt_state", "w", "trace")):

        def value(size, part=part):
            at = {"players": dict(point["players"]), "opt_state": dict(point["opt_state"]), "step": 0}
            if part[0] == "players":
                at["players"]["w"] = at["players"]["w"] + torch.tensor([0.0, size], dtype=D)
            else:
                at["opt_state"]["w"] = {"trace": at["opt_state"]["w"]["trace"] + torch.tensor([0.0, size], dtype=D)}
            return float(ng.lyapunov_exponents(play.update, at, num_steps=4, method=LARGEST).exponents[0])

        slope = found.gradient
        for name in part:
            slope = slope[name]
        assert float(slope[1]) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, abs=1e-7)


def test_exponents_and_end_are_in_the_graph_of_a_point_that_requires_grad():
    weights = torch.tensor([0.7, -1.3], dtype=D)

    def value(w):
        found = ng.lyapunov_exponents(turn, {"w": w}, num_steps=20, directions=GIVEN)
        return weights @ found.exponents + found.end["w"].sin().sum()

    w = POINT["w"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(w), w)
    assert torch.allclose(slope, differences(lambda w: value(w).detach()), rtol=1e-5, atol=1e-7)
    again = torch.autograd.grad(value(w), w, create_graph=True)[0].sum()
    with pytest.raises(RuntimeError, match="differentiate twice"):
        again.backward()
    assert not ng.lyapunov_exponents(turn, POINT, num_steps=2).exponents.requires_grad


def test_what_has_no_derivative_is_named():
    class Bent(torch.autograd.Function):
        """x^(3/2) for x ≥ 0, whose second derivative at 0 is infinite."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sqrt()

        @staticmethod
        def backward(ctx, slope):
            return 1.5 * slope * ctx.saved_tensors[0].sqrt()

    def bent(p):
        return {"w": 2.0 * p["w"] + Bent.apply(p["w"] - p["w"].detach())}

    small = {"w": POINT["w"] / 10}
    with pytest.raises(ng.NonFinite, match="the smallest of the exponents: 1 of 1 entries are NaN or infinite"):
        ng.lyapunov_gradient(lambda p: {"w": p["w"] * 0.0}, small, num_steps=2, objective="smallest")
    with pytest.raises(ng.NonFinite, match="its derivative: 3 of 3 entries are NaN or infinite, limit 0"):
        ng.lyapunov_gradient(bent, small, num_steps=1)
    assert float(ng.lyapunov_gradient(bent, small, num_steps=1, throw=False).value) == pytest.approx(math.log(2.0))
    with pytest.raises(ng.InvalidInput, match="objective 'mean', limit: largest, smallest, sum, entropy"):
        ng.lyapunov_gradient(turn, POINT, num_steps=2, objective="mean")
    with pytest.raises(ng.InvalidInput, match="lyapunov_gradient: update's result has 0 paths from the point"):
        ng.lyapunov_gradient(lambda p: {"w": p["w"].detach()}, POINT, num_steps=2)


@pytest.mark.parametrize(("small", "kept"), [(True, chain.SEGMENT), (False, 1)], ids=["small", "large"])
def test_graphs_and_states_kept_do_not_grow_with_the_steps(monkeypatch, small, kept):
    """A graph is a Step's; of a small point a segment's are kept, of a large one the one in use."""
    alive, most = weakref.WeakSet(), {"graphs": 0, "states": 0}
    begun = chain.Step.__init__
    vectors = weakref.WeakSet()

    def counted(self, form, update, at, rows):
        begun(self, form, update, at, rows)
        alive.add(self)
        vectors.add(self.end.vector)
        most["graphs"] = max(most["graphs"], len(alive))
        most["states"] = max(most["states"], len(vectors))

    monkeypatch.setattr(chain.Step, "__init__", counted)
    if not small:
        monkeypatch.setattr(chain, "ROOM", 0)
    figures = []
    for num_steps in (32, 256):
        most.update(graphs=0, states=0)
        ng.lyapunov_gradient(turn, POINT, num_steps=num_steps)
        figures.append(dict(most))
    assert figures[0]["graphs"] == figures[1]["graphs"] <= kept + 2
    # Of a small point the ends of segments are there, of a large one as many as it takes halves to come to a segment.
    further = 224 // chain.SEGMENT if small else 3
    assert figures[1]["states"] - figures[0]["states"] <= further
    assert figures[0]["states"] <= 2 * chain.SEGMENT + 6
    most.update(graphs=0, states=0)
    ng.lyapunov_exponents(turn, POINT, num_steps=64)
    assert most["graphs"] <= 2
    assert most["states"] <= 3
