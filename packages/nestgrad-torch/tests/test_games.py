"""Games: products, directions against dense ones, and play against steps by hand."""

import math

import pytest
import torch

import nestgrad_torch as ng

D = torch.float64


def rand(*shape, seed=0):
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def first(p, batch):
    joint = torch.cat([p["x"]["b"].reshape(-1), p["x"]["a"], p["y"]])
    return (batch @ joint).sin().sum() + (p["x"]["a"] * p["y"][:2]).sum() ** 2 + p["x"]["b"].square().sum()


def second(p, batch):
    return (batch[0, :3] * p["y"]).exp().sum() - p["x"]["b"].sum() * (p["y"] ** 2).sum() + p["x"]["a"].prod()


GAME = ng.Game({"x": first, "y": second})
BATCH = rand(4, 9, seed=7)


def players():
    return {"y": 0.5 * rand(3, seed=1), "x": {"b": 0.5 * rand(2, 2, seed=2), "a": 0.5 * rand(2, seed=3)}}


def flat(p):
    """In the order of game_jacobian."""
    return torch.cat([p["x"]["a"], p["x"]["b"].reshape(-1), p["y"]])


def gradient(w):
    """The joint gradient of a vector of params, as a function."""
    p = {"x": {"a": w[:2], "b": w[2:6].reshape(2, 2)}, "y": w[6:]}
    (of_first,) = torch.autograd.grad(first(p, BATCH), w, create_graph=True)
    (of_second,) = torch.autograd.grad(second(p, BATCH), w, create_graph=True)
    return torch.cat([of_first[:6], of_second[6:]])


def dense():
    """(ξ, Ĝ, Ĝ with its diagonal blocks zero, χ, n)."""
    w, full = flat(players()), ng.game_jacobian(GAME, players(), BATCH)
    xi, off = gradient(w.clone().requires_grad_()).detach(), full.clone()
    off[:6, :6] = 0.0
    off[6:, 6:] = 0.0
    cross = []
    for loss in (first, second):
        leaf = w.clone().requires_grad_()
        p = {"x": {"a": leaf[:2], "b": leaf[2:6].reshape(2, 2)}, "y": leaf[6:]}
        cross.append(torch.autograd.grad(loss(p, BATCH), leaf)[0])
    chi = torch.cat([full[6:, :6].T @ cross[0][6:], full[:6, 6:].T @ cross[1][:6]])
    return xi, full, off, chi, len(w)


def stable(spec):
    xi, _, off, chi, _ = dense()
    ahead, shaping = xi - spec.look_ahead * off @ xi, -spec.look_ahead * chi
    along = float(shaping @ ahead)
    most = 1.0 if along >= 0 else min(1.0, -spec.a * float(ahead @ ahead) / along)
    return ahead + min(most, float(xi @ xi) if float(xi.norm()) < spec.b else 1.0) * shaping


def symplectic(spec):
    xi, full, _, _, n = dense()
    pulled, turned = full.T @ xi, (full.T - full) @ xi / 2
    sign = math.copysign(1.0, float(xi @ pulled) * float(turned @ pulled) / n + 0.1) if spec.align else 1.0
    return xi + spec.weight * sign * turned


def exact_lola(spec):
    w, rows = flat(players()), []
    for loss, mine in ((first, slice(0, 6)), (second, slice(6, 9))):
        leaf = w.clone().requires_grad_()
        ahead = w - spec.look_ahead * gradient(leaf)
        keep = torch.zeros_like(w).index_fill(0, torch.arange(9)[mine], 1.0).bool()
        there = torch.where(keep, leaf, ahead)
        p = {"x": {"a": there[:2], "b": there[2:6].reshape(2, 2)}, "y": there[6:]}
        rows.append(torch.autograd.grad(loss(p, BATCH), leaf)[0][mine])
    return torch.cat(rows)


def ahead(spec):
    w = flat(players())
    return gradient((w - spec.step_size * dense()[0]).requires_grad_()).detach()


DENSE = {
    ng.Simultaneous(): (lambda _: dense()[0], 0),
    ng.Extragradient(step_size=0.3): (ahead, 0),
    ng.Consensus(weight=0.3): (lambda s: dense()[0] + s.weight * dense()[1].T @ dense()[0], 1),
    ng.SymplecticAdjustment(weight=0.7): (symplectic, 2),
    ng.SymplecticAdjustment(weight=0.7, align=False): (symplectic, 2),
    ng.LookAhead(look_ahead=0.3): (lambda s: dense()[0] - s.look_ahead * dense()[2] @ dense()[0], 1),
    ng.LOLA(look_ahead=0.3): (exact_lola, 0),
    ng.LOLA(look_ahead=0.3, first_order=True): (
        lambda s: dense()[0] - s.look_ahead * (dense()[2] @ dense()[0] + dense()[3]),
        2,
    ),
    ng.SOS(look_ahead=0.3): (stable, 2),
    ng.SOS(look_ahead=3.0, a=0.01): (stable, 2),
    ng.SOS(look_ahead=0.3, b=100.0): (stable, 2),
    ng.CompetitiveGradient(step_size=0.3, rtol=1e-14): (
        lambda s: torch.linalg.solve(torch.eye(9, dtype=D) + s.step_size * dense()[2], dense()[0]),
        None,
    ),
}


def test_the_jacobian_is_that_of_the_joint_gradient_in_the_order_of_the_game():
    expected = torch.func.jacrev(_func_gradient)(flat(players()))
    assert torch.allclose(ng.game_jacobian(GAME, players(), BATCH), expected, rtol=1e-12, atol=1e-12)


def _func_gradient(w):
    def of(loss):
        return lambda v: loss({"x": {"a": v[:2], "b": v[2:6].reshape(2, 2)}, "y": v[6:]}, BATCH)

    return torch.cat([torch.func.grad(of(first))(w)[:6], torch.func.grad(of(second))(w)[6:]])


def test_products_are_those_of_the_jacobian():
    along = {"x": {"a": rand(2, seed=4), "b": rand(2, 2, seed=5)}, "y": rand(3, seed=6)}
    jacobian = ng.game_jacobian(GAME, players(), BATCH)
    pushed, pulled = (product(GAME, players(), along, BATCH) for product in (ng.game_jvp, ng.game_vjp))
    assert torch.allclose(flat(pushed), jacobian @ flat(along), rtol=1e-12, atol=1e-13)
    assert torch.allclose(flat(pulled), jacobian.T @ flat(along), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("method", DENSE, ids=str)
def test_a_direction_is_the_dense_one(monkeypatch, method, large):
    if large:
        monkeypatch.setattr("nestgrad_torch._tree._LARGE", 1)
    given, (expected, products) = players(), DENSE[method]
    found = ng.game_direction(GAME, given, BATCH, method=method)
    assert torch.allclose(flat(found.direction), expected(method), rtol=1e-11, atol=1e-12)
    assert torch.allclose(flat(found.gradient), dense()[0], rtol=1e-12, atol=1e-13)
    assert {name: float(x) for name, x in found.losses.items()} == pytest.approx(
        {"x": float(first(given, BATCH)), "y": float(second(given, BATCH))}, rel=1e-14
    )
    assert found.products == products if products is not None else 0 < found.products < 20
    assert torch.equal(flat(given), flat(players()))


def test_sos_shapes_in_full_where_it_agrees_with_looking_ahead():
    both, eta, x, y = ng.Game({"x": _xy, "y": _xy}), 0.3, 0.7, -0.4
    found = ng.game_direction(both, scalars(x, y), method=ng.SOS(look_ahead=eta)).direction
    assert float(found["x"]) == pytest.approx(y - 2 * eta * x, rel=1e-14)
    assert float(found["y"]) == pytest.approx(x - 2 * eta * y, rel=1e-14)


def _xy(p, _):
    return p["x"] * p["y"]


def test_sos_shapes_less_in_the_dense_cases():
    xi, _, off, chi, _ = dense()
    ahead = xi - 3.0 * off @ xi
    assert 0.0 < 0.01 * float(ahead @ ahead) / float(3.0 * chi @ ahead) < 1.0
    assert 0.1 < float(xi.norm()) < 100.0


def bilinear(sigma=1.3):
    return ng.Game({"x": lambda p, _: sigma * p["x"] * p["y"], "y": lambda p, _: -sigma * p["x"] * p["y"]})


def scalars(x, y):
    return {"x": torch.tensor(x, dtype=D), "y": torch.tensor(y, dtype=D)}


def test_o1_on_a_bilinear_game_exact_and_first_order_lola_agree():
    eta, sigma, x, y = 0.2, 1.3, 0.7, -0.4
    for spec in (ng.LOLA(look_ahead=eta), ng.LOLA(look_ahead=eta, first_order=True)):
        found = ng.game_direction(bilinear(sigma), scalars(x, y), method=spec).direction
        assert float(found["x"]) == pytest.approx(sigma * y + 2 * eta * sigma**2 * x, rel=1e-14)
    found = ng.game_direction(bilinear(sigma), scalars(x, y), method=ng.LookAhead(look_ahead=eta)).direction
    assert float(found["x"]) == pytest.approx(sigma * y + eta * sigma**2 * x, rel=1e-14)


def test_o2_a_look_ahead_of_zero_is_the_gradient():
    for spec in (ng.LOLA(look_ahead=0.0), ng.LOLA(look_ahead=0.0, first_order=True), ng.SOS(look_ahead=0.0)):
        found = ng.game_direction(GAME, players(), BATCH, method=spec)
        assert torch.equal(flat(found.direction), flat(found.gradient))


def test_o3_on_the_tandem_game_lookahead_and_sos_stay_where_lola_moves():
    tandem = ng.Game(
        {
            "x": lambda p, _: (p["x"] + p["y"]) ** 2 - 2 * p["x"],
            "y": lambda p, _: (p["x"] + p["y"]) ** 2 - 2 * p["y"],
        }
    )
    at = scalars(0.3, 0.7)
    for spec in (ng.LookAhead(look_ahead=0.1), ng.SOS(look_ahead=0.1)):
        found = ng.game_direction(tandem, at, method=spec).direction
        assert max(abs(float(x)) for x in found.values()) < 1e-14
    lola = ng.game_direction(tandem, at, method=ng.LOLA(look_ahead=0.1, first_order=True)).direction
    assert float(lola["x"]) == pytest.approx(-0.1 * 4.0, rel=1e-13)


def test_o4_players_apart_all_descend_their_gradients():
    apart = ng.Game({"x": lambda p, _: p["x"].cos(), "y": lambda p, _: p["y"] ** 4})
    for spec in DENSE:
        if not isinstance(spec, (ng.Consensus, ng.Extragradient)):
            found = ng.game_direction(apart, scalars(0.3, 0.7), method=spec)
            assert float(found.direction["x"]) == pytest.approx(-math.sin(0.3), rel=1e-13)
            assert float(found.direction["y"]) == pytest.approx(4 * 0.7**3, rel=1e-13)


def prisoners(p, which):
    """The small iterated prisoner's dilemma: one logit each, states CC, CD, DC, DD."""
    mine, other = (x.sigmoid() for x in (p["one"], p["two"]))
    frozen = torch.tensor(-3.0, dtype=D).sigmoid()
    p1, p2 = torch.stack([mine, frozen, mine, frozen]), torch.stack([other, other, frozen, frozen])
    moves = torch.stack([p1 * p2, p1 * (1 - p2), (1 - p1) * p2, (1 - p1) * (1 - p2)], dim=1)
    start = torch.stack([mine * other, mine * (1 - other), (1 - mine) * other, (1 - mine) * (1 - other)])
    rewards = torch.tensor([[-1.0, -3.0, 0.0, -2.0], [-1.0, 0.0, -3.0, -2.0]][which], dtype=D)
    return -0.1 * start @ torch.linalg.solve(torch.eye(4, dtype=D) - 0.9 * moves, rewards)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ((-1e3, -1e3), (1.9590639972476165, 1.9590639972476165)),
        ((1e3, 1e3), (1.0, 1.0)),
        ((0.0, 0.0), (1.8436208881352993, 1.8436208881352993)),
        ((30.0, -30.0), (2.102345068718576, 1.6894059319451813)),
    ],
)
def test_the_small_prisoners_dilemma_has_its_known_losses(at, expected):
    game = ng.Game({"one": lambda p, _: prisoners(p, 0), "two": lambda p, _: prisoners(p, 1)})
    at = {name: torch.tensor(x, dtype=D) for name, x in zip(("one", "two"), at, strict=True)}
    losses = ng.game_direction(game, at).losses
    assert [float(losses[name]) for name in ("one", "two")] == pytest.approx(list(expected), rel=1e-12)


def test_players_move_at_once_or_in_turn():
    rate, sigma = 0.1, 1.3
    x, y = 0.7, -0.4
    for turns in ("simultaneous", "alternating"):
        play = ng.Play(bilinear(sigma), optimizer=ng.optim.sgd(rate), turns=turns)
        state = play.init(scalars(x, y))
        after, info = play.step(state)
        moved = x - rate * sigma * y
        seen = x if turns == "simultaneous" else moved
        assert float(after["players"]["x"]) == pytest.approx(moved, rel=1e-15)
        assert float(after["players"]["y"]) == pytest.approx(y + rate * sigma * seen, rel=1e-15)
        assert float(info.losses["y"]) == pytest.approx(-sigma * seen * y, rel=1e-15)
        assert float(info.direction_norm) == pytest.approx(math.hypot(sigma * y, sigma * seen), rel=1e-15)
        assert (state["step"], after["step"], float(state["players"]["x"])) == (0, 1, x)


def test_in_turn_a_direction_is_taken_anew_for_each_player():
    spec, rate = ng.Consensus(weight=0.2), 0.05
    play = ng.Play(
        GAME, optimizer={"y": ng.optim.sgd(rate), "x": ng.optim.sgd(2 * rate)}, direction=spec, turns="alternating"
    )
    after, _ = play.step(play.init(players()), BATCH)
    p = players()
    slope = ng.game_direction(GAME, p, BATCH, method=spec).direction["x"]
    p = {"x": ng.tree.map(lambda w, g: w - 2 * rate * g, p["x"], slope), "y": p["y"]}
    slope = ng.game_direction(GAME, p, BATCH, method=spec).direction["y"]
    assert torch.allclose(flat(after["players"]), flat({**p, "y": p["y"] - rate * slope}), rtol=1e-14)


@pytest.mark.parametrize(
    ("turns", "modulus", "argument", "rate"),
    [
        ("simultaneous", 0.0, 0.0, 1.001249),
        ("simultaneous", 0.5, math.pi, 1.000185),
        ("alternating", 0.5, math.pi, 0.999630),
        ("simultaneous", 0.9, math.pi / 8, 0.985690),
        ("alternating", 0.9, math.pi / 8, 0.984567),
    ],
)
def test_a_dirac_gan_decays_at_the_spectral_radius(turns, modulus, argument, rate):
    softplus = torch.nn.functional.softplus
    game = ng.Game({"g": lambda p, _: -softplus(-p["g"] * p["d"]), "d": lambda p, _: softplus(-p["g"] * p["d"])})
    play = ng.Play(game, optimizer=ng.optim.complex_momentum(0.1, modulus, argument), turns=turns)
    state, sizes = play.init({"g": torch.tensor(1e-3, dtype=D), "d": torch.tensor(1e-3, dtype=D)}), []
    for _ in range(1000):
        state, _ = play.step(state)
        sizes.append(math.hypot(*(float(x) for x in state["players"].values())))
    # The largest of a few steps on either side, as the size turns with the players.
    decay = (max(sizes[-150:]) / max(sizes[200:350])) ** (1 / 650)
    assert decay - 1 == pytest.approx(rate - 1, rel=0.015)


def test_what_cannot_be_played_is_named():
    with pytest.raises(ng.InvalidInput, match="players: got x, limit: the game's x, y"):
        ng.game_direction(GAME, {"x": players()["x"]}, BATCH)
    with pytest.raises(ng.NonScalarLoss, match=r"losses\['y'\] returned shape \(3,\)"):
        ng.game_direction(ng.Game({"x": first, "y": lambda p, _: p["y"]}), players(), BATCH)
    with pytest.raises(ng.UnsupportedModule, match=r"players\['x'\]: got the module Linear"):
        ng.game_direction(GAME, {"x": torch.nn.Linear(1, 1), "y": players()["y"]}, BATCH)
    with pytest.raises(ng.InvalidInput, match=r"players\['y'\]: 0 entries, limit: at least 1"):
        ng.game_direction(GAME, {**players(), "y": []}, BATCH)
    with pytest.raises(ng.InvalidInput, match=r"game_jacobian: 9 params, limit max_params=8.*game_jvp"):
        ng.game_jacobian(GAME, players(), BATCH, max_params=8)
    with pytest.raises(ng.UnsupportedSpec, match=r"method 'x', limit: one of nestgrad\.Direction"):
        ng.game_direction(GAME, players(), BATCH, method="x")
    with pytest.raises(ng.InvalidInput, match=r"tangents\['y'\]: got \(2,\), limit: shape \(3,\)"):
        ng.game_jvp(GAME, players(), {**players(), "y": rand(2)}, BATCH)
    with pytest.raises(ng.UnsupportedOptimizer, match=r"Play\.optimizer of 'x': got float"):
        ng.Play(GAME, optimizer=0.1)
    with pytest.raises(ng.DtypeMismatch, match=r"params\['y'\]|params\['x"):
        ng.game_direction(GAME, {**players(), "y": players()["y"].float()}, BATCH)


def test_a_direction_that_is_not_finite_names_its_player():
    odd = ng.Game({"x": lambda p, _: p["x"] * p["y"], "y": lambda p, _: (p["y"] - p["y"].detach()).sqrt()})
    with pytest.raises(ng.NonFinite, match="player 'y': 1 of 1 entries of its gradient are not finite, limit 0"):
        ng.game_direction(odd, scalars(1.0, 2.0))
    play = ng.Play(odd, optimizer=ng.optim.sgd(0.1))
    with pytest.raises(ng.NonFinite, match="player 'y'"):
        play.step(play.init(scalars(1.0, 2.0)))
    play = ng.Play(odd, optimizer=ng.optim.sgd(0.1), throw=False)
    state, info = play.step(play.init(scalars(1.0, 2.0)))
    assert not math.isfinite(float(info.direction_norm))
    assert math.isfinite(float(state["players"]["x"]))


def test_a_competitive_solve_that_ends_early_says_so_and_a_zero_gradient_gives_zero():
    with pytest.raises(ng.NotConverged, match=r"CompetitiveGradient.*residual norm.*after 1 steps"):
        ng.game_direction(GAME, players(), BATCH, method=ng.CompetitiveGradient(step_size=0.3, max_steps=1))
    found = ng.game_direction(bilinear(), scalars(0.0, 0.0), method=ng.CompetitiveGradient(step_size=0.3))
    assert [float(x) for x in found.direction.values()] == [0.0, 0.0]
    assert found.products == 0


def test_a_bilevel_problem_is_a_game_whose_directions_are_its_slopes():
    inner = lambda w, h, batch: ((w - h) ** 2).sum() * batch  # noqa: E731
    outer = lambda w, h, batch: (w * h).sum() + batch * h.sum()  # noqa: E731
    game = ng.Game.of(ng.BilevelProblem(ng.Minimize(inner), outer))
    w, h = rand(3, seed=1), rand(3, seed=2)
    found = ng.game_direction(game, {"params": w, "hparams": h}, (2.0, 3.0))
    assert torch.allclose(found.gradient["params"], 4.0 * (w - h))
    assert torch.allclose(found.gradient["hparams"], w + 3.0)


def test_random_numbers_and_large_players_are_left_alone():
    def noisy(p, _):
        return (torch.randn((), dtype=D) * p["x"] * p["y"]).sum()

    def writes(p, _):
        value = (p["x"] * p["y"]).sum()
        with torch.no_grad():
            p["x"].mul_(2.0)
        return value

    before = torch.get_rng_state()
    ng.game_direction(ng.Game({"x": noisy, "y": noisy}), scalars(1.0, 2.0))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ng.InvalidInput, match="changed in place 1 times by a loss"):
        ng.game_direction(ng.Game({"x": writes, "y": noisy}), {"x": torch.ones(100_000), "y": torch.ones(100_000)})
    assert ng.supports(ng.SOS)
