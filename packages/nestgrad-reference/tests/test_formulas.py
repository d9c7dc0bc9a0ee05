"""Each solver's formula against an independent route: SciPy's iterations, plain recurrences, hand-written sums."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
import pytest
import scipy.sparse.linalg as sla

import nestgrad_reference as ng

LIMIT = 1e-10
N, M = 7, 3


def symmetric(rng, eigenvalues):
    basis, _ = np.linalg.qr(rng.normal(size=(N, N)))
    return basis @ np.diag(eigenvalues) @ basis.T


def definite(rng):
    return symmetric(rng, np.exp(rng.uniform(-1.0, 1.0, N)))


def indefinite(rng):
    return symmetric(rng, np.exp(rng.uniform(-1.0, 1.0, N)) * np.array([-1, 1, 1, -1, 1, 1, 1]))


def general(rng):
    return 2.0 * np.eye(N) + rng.normal(size=(N, N)) / np.sqrt(N)


def linear(matrix, v, *, minimize=False):
    """(problem, hparams) with J = matrix, B = -I and ∂L_out/∂w = v at every w: total is J⁻ᵀv itself."""
    outer = lambda p, h, b: anp.dot(v, p["w"])  # noqa: E731
    if minimize:
        inner = ng.Minimize(lambda p, h, b: 0.5 * anp.dot(p["w"], anp.dot(matrix, p["w"])) - anp.dot(h["x"], p["w"]))
    else:
        inner = ng.Root(lambda p, h, b: {"w": anp.dot(matrix, p["w"]) - h["x"]})
    return ng.BilevelProblem(inner, outer)


def solve(matrix, v, solver, *, minimize=False, throw=False, **call):
    """The hypergradient whose total and adjoint are p."""
    return ng.hypergradient(
        linear(matrix, v, minimize=minimize),
        {"w": np.zeros(len(v))},
        {"x": np.zeros(len(v))},
        method=ng.Implicit(solver=solver),
        throw=throw,
        **call,
    )


def same(found, right, what=""):
    p = found.adjoint["w"]
    np.testing.assert_allclose(p, right, rtol=0.0, atol=LIMIT * max(np.linalg.norm(right), 1.0), err_msg=what)
    np.testing.assert_array_equal(found.total["x"], p)


def iterate(method, matrix, v, k, **given):
    """SciPy's k-th iterate."""
    kept = []
    out = method(matrix, v, rtol=1e-300, atol=0.0, maxiter=k, callback=lambda x: kept.append(x.copy()), **given)
    return out[0]


KS = [1, 2, 4]


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_cg_iterates_are_scipys(k, warm, scaled):
    rng = np.random.default_rng([1, k, warm, scaled])
    for _ in range(20):
        matrix, v, start, diagonal = definite(rng), rng.normal(size=N), rng.normal(size=N), rng.uniform(0.5, 2.0, N)
        given = {"x0": start} if warm else {}
        given |= {"M": np.diag(diagonal)} if scaled else {}
        call = {"warm_start": {"w": start}} if warm else {}
        call |= {"preconditioner": {"w": diagonal}} if scaled else {}
        found = solve(matrix, v, ng.CG(rtol=0.0, max_steps=k), minimize=True, **call)
        same(found, iterate(sla.cg, matrix, v, k, **given))
        assert found.status is ng.Status.TRUNCATED
        assert found.stats.steps == k


@pytest.mark.parametrize("k", KS)
def test_minres_iterates_are_scipys(k):
    rng = np.random.default_rng([2, k])
    for _ in range(20):
        matrix, v = indefinite(rng), rng.normal(size=N)
        found = solve(matrix, v, ng.MINRES(rtol=0.0, max_steps=k), minimize=True)
        same(found, sla.minres(matrix, v, rtol=1e-300, maxiter=k)[0])
        assert found.status is ng.Status.TRUNCATED


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("restart", [None, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_gmres_iterates_are_scipys(k, restart, scaled):
    rng = np.random.default_rng([3, k, restart or 0, scaled])
    for _ in range(20):
        matrix, v, start, diagonal = general(rng), rng.normal(size=N), rng.normal(size=N), rng.uniform(0.5, 2.0, N)
        diagonal = diagonal if scaled else np.ones(N)
        call = {"preconditioner": {"w": diagonal}} if scaled else {}
        right = start
        left = k
        while left:  # SciPy counts cycles, and preconditions from the left
            inside = min(left, restart or k)
            residual = v - matrix.T @ right
            moved, _ = sla.gmres(matrix.T * diagonal, residual, rtol=1e-300, restart=inside, maxiter=1)
            right, left = right + diagonal * moved, left - inside
        solver = ng.GMRES(rtol=0.0, max_steps=k, restart=restart)
        same(solve(matrix, v, solver, warm_start={"w": start}, **call), right)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("scaled", [False, True])
def test_bicgstab_iterates_are_scipys(k, scaled):
    rng = np.random.default_rng([4, k, scaled])
    for _ in range(20):
        matrix, v, start, diagonal = general(rng), rng.normal(size=N), rng.normal(size=N), rng.uniform(0.5, 2.0, N)
        given, call = {"x0": start}, {"warm_start": {"w": start}}
        if scaled:
            given["M"], call["preconditioner"] = np.diag(diagonal), {"w": diagonal}
        same(
            solve(matrix, v, ng.BiCGSTAB(rtol=0.0, max_steps=k), **call), iterate(sla.bicgstab, matrix.T, v, k, **given)
        )


@pytest.mark.parametrize("k", KS)
def test_the_least_squares_iterates_are_scipys(k):
    rng = np.random.default_rng([5, k])
    for _ in range(20):
        matrix, v, start = general(rng), rng.normal(size=N), rng.normal(size=N)
        none = {"atol": 0.0, "btol": 0.0, "conlim": 0.0}
        call = {"warm_start": {"w": start}}
        residual = v - matrix.T @ start
        lsmr = start + sla.lsmr(matrix.T, residual, maxiter=k, **none)[0]
        lsqr = start + sla.lsqr(matrix.T, residual, iter_lim=k, **none)[0]  # the same iterates as CG on the normal ones
        same(solve(matrix, v, ng.LSMR(rtol=0.0, max_steps=k), **call), lsmr)
        same(solve(matrix, v, ng.NormalCG(rtol=0.0, max_steps=k), **call), lsqr)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_a_preconditioned_series_is_the_loop_from_right_to_left(k):
    rng = np.random.default_rng([6, k])
    for _ in range(20):
        matrix, v, diagonal = general(rng), rng.normal(size=N), rng.uniform(0.2, 0.5, N)
        p, term = np.zeros(N), 0.7 * diagonal * v
        for _ in range(k):
            p, term = p + term, term - 0.7 * diagonal * (matrix.T @ term)
        found = solve(matrix, v, ng.Neumann(num_terms=k, step_size=0.7), preconditioner={"w": diagonal})
        same(found, p)


def test_random_terms_have_the_series_as_their_mean():
    rng = np.random.default_rng(7)
    matrix, v, k = general(rng), rng.normal(size=N), 4
    by_steps = {}
    for key in range(60):
        found = solve(matrix, v, ng.RandomNeumann(num_terms=k, step_size=0.3), key=key)
        by_steps[found.stats.steps] = found.adjoint["w"]
    assert sorted(by_steps) == [1, 2, 3, 4]
    series = solve(matrix, v, ng.Neumann(num_terms=k, step_size=0.3))
    same(series, sum(by_steps.values()) / k)


@pytest.mark.parametrize("rank", [1, 3, N])
def test_nystrom_is_its_woodbury_form(rank):
    rng = np.random.default_rng([8, rank])
    for key in range(20):
        matrix, v, rho = definite(rng), rng.normal(size=N), 0.3
        places = np.random.default_rng(key).choice(N, rank, replace=False)
        columns = matrix[:, places]
        inner = np.linalg.solve(columns[places] + columns.T @ columns / rho, columns.T @ v)
        found = solve(matrix, v, ng.Nystrom(rank=rank, damping=rho), minimize=True, key=key)
        same(found, v / rho - columns @ inner / rho**2)
        if rank == N:
            same(found, np.linalg.solve(matrix + rho * np.eye(N), v))


SOLVERS = [
    (ng.Dense(), general, False),
    (ng.CG(rtol=1e-12, max_steps=50), definite, True),
    (ng.MINRES(rtol=1e-12, max_steps=50), indefinite, True),
    (ng.NormalCG(rtol=1e-12, max_steps=50), general, False),
    (ng.LSMR(rtol=1e-12, max_steps=50), general, False),
    (ng.GMRES(rtol=1e-12, max_steps=50), general, False),
    (ng.GMRES(rtol=1e-10, max_steps=200, restart=4), general, False),
    (ng.BiCGSTAB(rtol=1e-12, max_steps=50), general, False),
]


@pytest.mark.parametrize(("solver", "draw", "minimize"), SOLVERS)
@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_every_solver_reaches_the_solution_and_says_so(solver, draw, minimize, damping):
    rng = np.random.default_rng(9)
    for size in (1.0, 1e-20, 1e20):
        matrix, v = draw(rng), rng.normal(size=N) * size
        right = np.linalg.solve(matrix.T + damping * np.eye(N), v)
        if np.linalg.cond(matrix + damping * np.eye(N)) > 1e3:
            continue
        found = ng.hypergradient(
            linear(matrix, v, minimize=minimize),
            {"w": np.zeros(N)},
            {"x": np.zeros(N)},
            method=ng.Implicit(solver=solver, damping=damping),
        )
        assert found.status is ng.Status.CONVERGED
        np.testing.assert_allclose(found.adjoint["w"], right, rtol=0.0, atol=1e-8 * np.linalg.norm(right))
        np.testing.assert_allclose(found.stats.adjoint_norm, np.linalg.norm(right), rtol=1e-8)
        np.testing.assert_allclose(found.stats.indirect_norm, np.linalg.norm(right), rtol=1e-8)
        np.testing.assert_allclose(found.stats.rhs_norm, np.linalg.norm(v), rtol=1e-12)


@pytest.mark.parametrize(("solver", "draw", "minimize"), SOLVERS)
def test_a_zero_slope_gives_exactly_zero(solver, draw, minimize):
    rng = np.random.default_rng(10)
    matrix = draw(rng)
    call = {} if isinstance(solver, ng.Dense) else {"warm_start": {"w": rng.normal(size=N)}}
    found = solve(matrix, np.zeros(N), solver, minimize=minimize, **call)
    assert found.status is ng.Status.CONVERGED
    assert not found.total["x"].any()
    assert found.stats.residual_norm == 0.0


@pytest.mark.parametrize(("solver", "draw", "minimize"), SOLVERS)
def test_forward_and_reverse_agree(solver, draw, minimize):
    rng = np.random.default_rng(11)
    matrix, v, xi = draw(rng), rng.normal(size=N), rng.normal(size=N)
    found = ng.hypergradient_jvp(
        linear(matrix, v, minimize=minimize),
        {"w": np.zeros(N)},
        {"x": np.zeros(N)},
        {"x": xi},
        method=ng.Implicit(solver=solver),
    )
    response = np.linalg.solve(matrix, xi)
    np.testing.assert_allclose(found.response["w"], response, rtol=0.0, atol=1e-8 * np.linalg.norm(response))
    np.testing.assert_allclose(found.total, solve(matrix, v, solver, minimize=minimize).total["x"] @ xi, rtol=1e-7)


# Truthful statuses.

ANY = [
    ng.NormalCG(rtol=1e-8, max_steps=60),
    ng.LSMR(rtol=1e-8, max_steps=60),
    ng.GMRES(rtol=1e-8, max_steps=60),
    ng.GMRES(rtol=1e-8, max_steps=60, restart=2),
    ng.BiCGSTAB(rtol=1e-8, max_steps=60),
    ng.Dense(),
]
SYMMETRIC = [ng.CG(rtol=1e-8, max_steps=60), ng.MINRES(rtol=1e-8, max_steps=60)]
NAMING = [*ANY[:3], ANY[5], *SYMMETRIC]
"""Those that tell a singular J from other failures."""
FEW = [type(solver)(rtol=1e-8, max_steps=2) for solver in (*ANY[:3], *SYMMETRIC, ANY[4])]


@pytest.mark.parametrize("kind", ["definite", "indefinite", "general", "stiff", "singular"])
def test_no_false_convergence_in_a_thousand_problems(kind):
    rng = np.random.default_rng([12, *kind.encode()])
    said = dict.fromkeys(ng.Status, 0)
    for _ in range(25):
        levels = np.exp(rng.uniform(-1.0, 1.0, N))
        matrix = {
            "definite": lambda: definite(rng),
            "indefinite": lambda: indefinite(rng),
            "general": lambda: rng.normal(size=(N, N)),
            "stiff": lambda: symmetric(rng, np.logspace(-9, 3, N)),
            "singular": lambda levels=levels: symmetric(rng, levels * np.array([0, 1, 1, 1, 1, 1, 0])),
        }[kind]()
        v = rng.normal(size=N) * 10.0 ** rng.uniform(-12.0, 12.0)
        minimize = kind != "general"
        for solver in [*ANY, *FEW, *(SYMMETRIC if minimize else [])]:
            if not minimize and isinstance(solver, (ng.CG, ng.MINRES)):
                continue
            found = solve(matrix, v, solver, minimize=minimize)
            residual = np.linalg.norm(matrix.T @ found.adjoint["w"] - v)
            said[found.status] += 1
            if found.status is ng.Status.CONVERGED:
                limit = 1e-8 if not isinstance(solver, ng.Dense) else 1e-4
                assert residual <= 1.0001 * limit * np.linalg.norm(v), f"{solver} on {kind}: {residual}"
                assert kind != "singular", f"{solver} says converged on a singular problem"
            else:
                assert not found.status.ok, f"{solver} says {found.status!r} with a tolerance"
            if (
                kind == "singular"
                and solver in [*ANY[:4], *SYMMETRIC, ANY[5]]
                and getattr(solver, "restart", None) is None
            ):
                assert found.status is ng.Status.SINGULAR, f"{solver} says {found.status!r}"
                assert found.stats.curvature < 1e-10
            if kind == "indefinite" and solver is SYMMETRIC[0]:
                assert found.status is ng.Status.INDEFINITE
    assert (said[ng.Status.CONVERGED] > 0) == (kind != "singular")


def test_rotations_halt_restarted_gmres_and_break_down_bicgstab():
    turn = np.roll(np.eye(N), 1, axis=0)
    v = np.eye(N)[0]
    halted = solve(turn, v, ng.GMRES(rtol=1e-8, max_steps=40, restart=3))
    assert halted.status is ng.Status.STAGNATED
    whole = solve(turn, v, ng.GMRES(rtol=1e-8, max_steps=40))
    assert whole.status is ng.Status.CONVERGED
    short = solve(turn, v, ng.GMRES(rtol=1e-8, max_steps=3))
    assert short.status is ng.Status.MAX_STEPS_REACHED
    broken = solve(turn, v, ng.BiCGSTAB(rtol=1e-8, max_steps=40))
    assert broken.status is ng.Status.BREAKDOWN
    with pytest.raises(ng.Breakdown, match=r"BiCGSTAB.*limit.*Remedy"):
        solve(turn, v, ng.BiCGSTAB(rtol=1e-8, max_steps=40), throw=True)


@pytest.mark.parametrize("solver", [ng.CG(rtol=1e-11, max_steps=60), ng.MINRES(rtol=1e-11, max_steps=60)])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_one_rate_a_parameter_is_repaired(solver, damping):
    rng = np.random.default_rng(13)
    for _ in range(20):
        curvature, rates, v = definite(rng), np.exp(rng.normal(size=N)), rng.normal(size=N)
        update = ng.WeightUpdate(
            lambda p, h, b, c=curvature: 0.5 * anp.dot(p["w"], anp.dot(c, p["w"])) - anp.dot(h["x"], p["w"]),
            lambda h, r=rates: ng.optim.sgd({"w": r}, 0.0, 0.1),
        )
        problem = ng.BilevelProblem(update, lambda p, h, b, v=v: anp.dot(v, p["w"]))
        point, hparams = {"w": rng.normal(size=N)}, {"x": rng.normal(size=N)}
        jacobian = np.diag(rates) @ (curvature + 0.1 * np.eye(N)) + damping * np.eye(N)
        method = ng.Implicit(solver=solver, damping=damping)
        found = ng.hypergradient(problem, point, hparams, method=method)
        right = np.linalg.solve(jacobian.T, v)
        np.testing.assert_allclose(found.adjoint["w"], right, rtol=0.0, atol=1e-8 * np.linalg.norm(right))
        xi = rng.normal(size=N)
        forward = ng.hypergradient_jvp(problem, point, hparams, {"x": xi}, method=method)
        response = np.linalg.solve(jacobian, rates * xi)
        np.testing.assert_allclose(forward.response["w"], response, rtol=0.0, atol=1e-8 * np.linalg.norm(response))
        again = ng.hypergradient(problem, point, hparams, method=method, warm_start=found.adjoint)
        assert again.stats.steps == 0
        few = ng.Implicit(solver=type(solver)(rtol=0.0, max_steps=3), damping=damping)
        third = ng.hypergradient(problem, point, hparams, method=few)
        scipys = iterate(sla.cg, jacobian.T / rates, v, 3) if isinstance(solver, ng.CG) else None
        if scipys is not None:
            np.testing.assert_allclose(third.adjoint["w"], scipys / rates, rtol=0.0, atol=LIMIT * np.linalg.norm(right))


def test_strategies_draw_orthogonal_rows_of_the_right_length():
    from nestgrad_reference._rules.pes import orthogonal_rows

    rows = orthogonal_rows(np.random.default_rng(0), 7, 3)
    assert rows.shape == (7, 3)
    for block in (rows[:3], rows[3:6]):
        np.testing.assert_allclose(block @ block.T, 3.0 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rows[6]), np.sqrt(3.0), rtol=1e-12)
    many = orthogonal_rows(np.random.default_rng(1), 6000, 2)
    np.testing.assert_allclose(many.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(many.T @ many / len(many), np.eye(2), atol=0.05)
