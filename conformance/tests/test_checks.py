"""The list of checks itself: names, docstrings, draws, and what is imported with it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume

import nestgrad_conformance
from nestgrad import InvalidInput
from nestgrad_conformance import CHECKS, Check, check, run_check
from nestgrad_reference.testing import harness as reference

FOLDER = Path(nestgrad_conformance.__file__).parent / "checks"


def written_checks():
    """The names of all functions under @check in the sources."""
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            marks = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "check" for mark in marks):
                yield node.name


def test_every_check_that_is_written_is_registered_once():
    names = list(written_checks())
    assert len(names) == len(set(names))
    assert set(names) == CHECKS.keys()
    assert len(names) >= 25


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_check_says_in_one_line_what_it_holds(name):
    doc = CHECKS[name].doc
    assert doc.endswith(".")
    assert 20 <= len(doc) <= 120
    assert CHECKS[name].name == CHECKS[name].function.__name__ == name


def test_a_name_cannot_be_taken_twice():
    def core_names_are_reexported(ctx, draw):
        """Another check."""

    with pytest.raises(InvalidInput, match="registered 2 times, limit 1"):
        check()(core_names_are_reexported)


def test_a_requirement_that_nothing_meets_is_refused():
    with pytest.raises(InvalidInput, match=r"requires \['Neuman'\].*limit.*'Neumann'"):
        check("Neuman")(lambda ctx, draw: None)


def drawn(name, count=5, **options):
    """What a check of this name draws, and how many problems it is said to have held for."""
    numbers = []

    def function(ctx, draw):
        number = draw.normal().item()
        assume(number > -1.0)
        numbers.append(number)

    made = Check(name=name, function=function, requires=(), slow=options.pop("slow", False), dtypes=("float64",))
    return run_check(made, reference, "float64", max_examples=count, **options), numbers


def test_draws_are_the_same_on_every_run_and_others_for_each_check():
    (_, one), (_, again), (_, other) = drawn("one"), drawn("one"), drawn("other")
    assert one == again
    assert one != other


def test_random_draws_differ_from_run_to_run():
    assert drawn("one", derandomize=False)[1] != drawn("one", derandomize=False)[1]


def test_the_number_of_problems_is_counted_and_not_assumed():
    held, numbers = drawn("one", 40)
    assert held == len(numbers) == 40
    assert len(set(numbers)) >= 35
    assert drawn("one", 40, slow=True)[0] == 4


def test_a_failure_names_the_draws():
    def function(ctx, draw):
        assert draw.pick([1, 2], "choice") == 1

    made = Check(name="failing", function=function, requires=(), slow=False, dtypes=("float64",))
    with pytest.raises(AssertionError) as caught:
        run_check(made, reference, "float64", max_examples=50)
    assert "Draw 2 (choice): 2" in "\n".join(caught.value.__notes__)


def test_importing_the_suite_imports_no_framework():
    code = "import sys, nestgrad_conformance; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "nestgrad_conformance" in imported
    assert not imported & {"torch", "jax", "optax", "nestgrad_torch", "nestgrad_jax", "nestgrad_lab"}
