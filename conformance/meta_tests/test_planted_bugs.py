"""The suite itself is tested: a backend with one bug planted must fail the named check."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamics_bugs import BUGS as DYNAMICS
from game_bugs import BUGS as GAMES
from gated_bugs import BUGS as GATED
from momentum_bugs import BUGS as MOMENTA
from planted import BUGS as FIELD
from planted import Bug
from rules import BUGS as OWN

import nestgrad_reference
from nestgrad_conformance import CHECKS, Harness, check_backend
from nestgrad_reference.testing import harness as whole

BUGS = [*FIELD, *OWN, *GATED, *GAMES, *MOMENTA, *DYNAMICS]
TRIVIAL = {"_solvers/identity.py"}
SOURCE = Path(nestgrad_reference.__file__).parent


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """The harness of a copy of the reference backend with the bug in it (or none)."""
    bug: Bug | None = request.param
    name = f"nestgrad_planted_{bug.number if bug else 0}"
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(SOURCE)
        if bug is not None and place.as_posix() == bug.file:
            assert text.count(bug.old) == 1, f"{bug.file}: {bug.old!r} stands {text.count(bug.old)} times, limit 1"
            text = text.replace(bug.old, bug.new)
        copy = tmp_path / name / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace("nestgrad_reference", name), encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module(name)
        rules = module.optim
        yield dataclasses.replace(
            whole, backend=module, sgd=rules.sgd, adam=rules.adam, reversible=rules.reversible_sgd, optim=rules
        )
    finally:
        sys.path.remove(str(tmp_path))
        for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[loaded]


@functools.cache
def _on_the_whole_backend(check: str) -> str:
    (result,) = check_backend(whole, max_examples=20, checks=[check])
    return result.status


@pytest.mark.parametrize("planted", [None], indirect=True)
def test_an_unchanged_copy_passes_every_check(planted: Harness) -> None:
    """Else a bug would be caught by the copying."""
    results = check_backend(planted, max_examples=5)
    beyond = {name for name, check in CHECKS.items() if "best_response" in check.requires}  # the reference has none
    assert {result.check for result in results if result.status == "passed"} == CHECKS.keys() - beyond, results


@pytest.mark.parametrize(
    ("planted", "bug"), [(bug, bug) for bug in BUGS], indirect=["planted"], ids=[bug.name for bug in BUGS]
)
def test_planted_bug_is_caught_by_the_named_check(planted: Harness, bug: Bug) -> None:
    """The check passes on the whole backend and fails on this one, by a wrong answer and not by a crash."""
    assert _on_the_whole_backend(bug.check) == "passed"
    (result,) = check_backend(planted, max_examples=100, checks=[bug.check])
    assert result.status == "failed", f"{bug.number} ({bug.name}) survives {bug.check}"
    assert result.message.startswith("AssertionError"), result.message


def test_all_numerical_bugs_of_the_list_are_planted() -> None:
    """1 to 32, each once."""
    assert sorted(bug.number for bug in BUGS if bug.number <= 32) == list(range(1, 33))


def test_every_solver_method_and_tuner_has_a_bug_planted() -> None:
    """A file of rules without one would not show that its checks can fail."""
    folders = ("_rules", "_solvers", "tuners")
    files = {f"{folder}/{path.name}" for folder in folders for path in (SOURCE / folder).glob("[!_]*.py")}
    assert files - {bug.file for bug in BUGS} == TRIVIAL
