"""Which inner problem, method, solver and call argument go together, and the words of a refusal."""

import itertools

import pytest

from nestgrad import (
    BOME,
    CG,
    DARTS,
    GMRES,
    INNERS_OF,
    LSMR,
    MINRES,
    PES,
    SAMA,
    SPECS,
    TRAITS,
    Dense,
    FixedPoint,
    Identity,
    Implicit,
    InvalidInput,
    Minimize,
    Neumann,
    Nystrom,
    Penalty,
    ProximalGradient,
    RandomNeumann,
    Root,
    Traits,
    Unrolled,
    UnsupportedSpec,
    WeightUpdate,
    illegal,
    require_batches,
    require_legal,
)


def _function(*args):
    return 0.0


INNERS = {
    "Minimize": Minimize(_function),
    "WeightUpdate": WeightUpdate(_function, _function),
    "carried": WeightUpdate(_function, _function, carry="weights_and_state"),
    "FixedPoint": FixedPoint(_function),
    "Root": Root(_function),
    "ProximalGradient": ProximalGradient(_function, _function, 0.1),
}
ITERATIVE = {"rtol": 1e-6, "max_steps": 10}
SERIES = Neumann(num_terms=2, step_size=0.1)
METHODS = {
    "Implicit": Implicit(solver=SERIES),
    "CG": Implicit(solver=CG(**ITERATIVE)),
    "MINRES": Implicit(solver=MINRES(**ITERATIVE)),
    "Nystrom": Implicit(solver=Nystrom(rank=2, damping=0.1)),
    "GMRES": Implicit(solver=GMRES(**ITERATIVE)),
    "Unrolled": Unrolled(num_steps=2),
    "reversible": Unrolled(num_steps=2, mode="reversible"),
    "PES": PES(num_steps=2, truncation=1, sigma=0.1, num_pairs=1),
    "DARTS": DARTS(step_size=0.1),
    "SAMA": SAMA(),
    "Penalty": Penalty(multiplier=2.0, num_steps=1, step_size=0.1),
    "BOME": BOME(num_steps=1, step_size=0.1),
}
LEGAL = {
    "Implicit": set(INNERS),
    "GMRES": set(INNERS),
    "CG": {"Minimize", "WeightUpdate", "FixedPoint", "Root"},
    "MINRES": {"Minimize", "WeightUpdate", "FixedPoint", "Root"},
    "Nystrom": {"Minimize"},
    "Unrolled": {"WeightUpdate", "carried", "FixedPoint", "ProximalGradient"},
    "reversible": {"WeightUpdate", "carried"},
    "PES": {"WeightUpdate", "carried", "FixedPoint", "ProximalGradient"},
    "DARTS": {"Minimize"},
    "SAMA": {"WeightUpdate", "carried"},
    "Penalty": {"Minimize"},
    "BOME": {"Minimize"},
}


@pytest.mark.parametrize(("inner", "method"), list(itertools.product(INNERS, METHODS)))
def test_a_combination_is_legal_exactly_where_its_definition_makes_sense(inner, method):
    reason = illegal(INNERS[inner], METHODS[method])
    assert (reason is None) == (inner in LEGAL[method])
    if reason is not None:
        assert "limit: " in reason
        assert "Remedy: use " in reason
        with pytest.raises(UnsupportedSpec, match="Remedy"):
            require_legal(INNERS[inner], METHODS[method], key=0)


def test_every_method_and_trait_is_a_known_spec():
    assert set(INNERS_OF) <= set(SPECS.values())
    assert set(TRAITS) <= set(SPECS.values())


@pytest.mark.parametrize(
    ("method", "extras", "message"),
    [
        (SERIES, {"warm_start": 1.0}, "warm_start: given to Neumann, limit: CG, MINRES"),
        (Dense(), {"preconditioner": 1.0}, "preconditioner: given to Dense, limit: CG, GMRES"),
        (LSMR(**ITERATIVE), {"preconditioner": 1.0}, "preconditioner: given to LSMR"),
        (Identity(), {"key": 0}, "key: given to Identity, which draws nothing"),
        (Nystrom(rank=1, damping=0.1), {}, "key: got None, limit: an int for Nystrom"),
        (RandomNeumann(num_terms=2, step_size=0.1), {}, "key: got None, limit: an int for RandomNeumann"),
    ],
)
def test_an_argument_that_a_solver_does_not_take_is_refused(method, extras, message):
    with pytest.raises(InvalidInput, match=message):
        require_legal(INNERS["Minimize"], Implicit(solver=method), **extras)


def test_a_bare_solver_is_no_method():
    with pytest.raises(UnsupportedSpec, match=r"got the solver Dense, limit: Implicit.*pass Implicit\(solver=Dense"):
        require_legal(INNERS["Minimize"], Dense())


def test_what_is_no_method_or_no_inner_problem_is_refused():
    for wrong in ("CG", None, Dense):
        with pytest.raises(UnsupportedSpec, match="limit: Implicit"):
            require_legal(INNERS["Minimize"], wrong)
    with pytest.raises(InvalidInput, match="got function, limit: Minimize"):
        require_legal(_function, METHODS["Implicit"])


def test_a_solver_that_the_table_does_not_know_has_the_default_traits():
    assert TRAITS.get(Dense, Traits()) == Traits()


@pytest.mark.parametrize(
    ("method", "batch", "batches", "message"),
    [
        (Unrolled(num_steps=3), None, [1, 2], "got 2, limit: a list of num_steps=3"),
        (Unrolled(num_steps=3), None, 5, "got int, limit"),
        (Unrolled(num_steps=1), 1, [1], "2 given, limit 1"),
        (METHODS["Implicit"], None, [1], "given to Implicit, limit: Unrolled, PES"),
    ],
)
def test_inner_batches_are_one_a_step_of_an_unrolling_method(method, batch, batches, message):
    with pytest.raises(InvalidInput, match=message):
        require_batches(method, batch, batches)


def test_inner_batches_that_fit_pass():
    require_batches(Unrolled(num_steps=2), None, [1, 2])
    require_batches(METHODS["PES"], None, (1, 2))
    require_batches(METHODS["Implicit"], 1, None)
