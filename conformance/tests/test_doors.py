"""Three doors, one list of checks, one meaning of an expected failure."""

import json

import pytest

from nestgrad import InvalidInput
from nestgrad_conformance import CHECKS, UnknownCheck, check_backend, parametrize_with_checks
from nestgrad_reference.testing import harness as reference

FAILING, PASSING = "detached_hyperparameters_are_refused", "core_names_are_reexported"
BOTH = f"{FAILING} or {PASSING}"


def test_the_three_doors_run_the_same_checks(run_suite, tmp_path):
    done = run_suite("reference", "--nestgrad-examples=1", f"--nestgrad-report={tmp_path / 'run.json'}", "-n", "2")
    assert done.returncode == 0, done.stdout
    record = json.loads((tmp_path / "run-float64.json").read_text())
    by_plugin = {check["check"]: check["status"] for check in record["checks"]}
    by_call = {result.check: result.status for result in check_backend(reference, max_examples=1)}
    cases = parametrize_with_checks(reference).args[1]
    by_decorator = [case.id.removesuffix("-float64") for case in cases]
    beyond = [name for name, check in CHECKS.items() if "best_response" in check.requires]  # the reference has none
    assert by_plugin == by_call == dict.fromkeys(CHECKS, "passed") | dict.fromkeys(beyond, "skipped")
    assert by_decorator == list(CHECKS)


def test_a_wrong_answer_fails_by_every_door(toy, run_suite, run_pytest, tmp_path):
    (result,) = check_backend(toy.harness, checks=[FAILING], max_examples=2)
    assert (result.status, result.examples) == ("failed", 0)
    assert "nothing raised, expected DisconnectedHyperparameter" in result.message
    by_plugin = run_suite("nestgrad_toy:harness", "--nestgrad-dtype=float64", "-k", BOTH)
    (tmp_path / "test_decorated.py").write_text(decorated("{}"))
    by_decorator = run_pytest("-k", BOTH, "test_decorated.py")
    for done in (by_plugin, by_decorator):
        assert done.returncode == 1, done.stdout
        assert "1 failed, 1 passed" in done.stdout


def decorated(expected_failures):
    return (
        "from nestgrad_conformance import parametrize_with_checks\n"
        "from nestgrad_toy import harness\n"
        f"@parametrize_with_checks(harness, dtypes=('float64',), expected_failures={expected_failures})\n"
        "def test_conformance(run):\n    run()\n"
    )


def test_an_expected_failure_is_reported_as_such_by_every_door(toy, run_suite, run_pytest, tmp_path):
    declared = {FAILING: "nothing is detached here"}
    (result,) = check_backend(toy.harness, checks=[FAILING], expected_failures=declared, max_examples=2)
    assert (result.status, result.message) == ("xfailed", "nothing is detached here")
    (tmp_path / "known.json").write_text(json.dumps(declared))
    by_plugin = run_suite(
        "nestgrad_toy:harness",
        *(
            "--nestgrad-dtype=float64",
            "--nestgrad-expected-failures=known.json",
            "--nestgrad-report=run.json",
            "-k",
            BOTH,
        ),
    )
    (tmp_path / "test_decorated.py").write_text(decorated(declared))
    by_decorator = run_pytest("-k", BOTH, "test_decorated.py")
    for done in (by_plugin, by_decorator):
        assert done.returncode == 0, done.stdout
        assert f"1 passed, {len(CHECKS) - 2} deselected, 1 xfailed" in done.stdout
        assert "nothing is detached here" in done.stdout
    checks = json.loads((tmp_path / "run-float64.json").read_text())["checks"]
    recorded = {check["check"]: (check["status"], check["message"]) for check in checks}
    assert recorded == {FAILING: ("xfailed", "nothing is detached here"), PASSING: ("passed", "")}


def test_an_expected_failure_that_passes_fails_the_run_by_every_door(toy, run_suite, run_pytest, tmp_path):
    declared = {PASSING: "was broken once"}
    (result,) = check_backend(toy.harness, checks=[PASSING], expected_failures=declared, max_examples=2)
    assert result.status == "failed"
    assert "expected to fail (was broken once), but passes" in result.message
    (tmp_path / "known.json").write_text(json.dumps(declared))
    by_plugin = run_suite(
        "nestgrad_toy:harness",
        *("--nestgrad-dtype=float64", "--nestgrad-expected-failures=known.json", "--nestgrad-report=run.json"),
        *("-k", PASSING),
    )
    (tmp_path / "test_decorated.py").write_text(decorated(declared))
    by_decorator = run_pytest("-k", PASSING, "test_decorated.py")
    for done in (by_plugin, by_decorator):
        assert done.returncode == 1, done.stdout
        assert "XPASS(strict)" in done.stdout
    (record,) = json.loads((tmp_path / "run-float64.json").read_text())["checks"]
    assert record["status"] == "failed"
    assert "was broken once" in record["message"]


WRONG = [
    ({"no_such_check": "a typo"}, UnknownCheck, "check 'no_such_check' does not exist"),
    ({PASSING: ""}, InvalidInput, f"expected failure '{PASSING}': reason ''"),
    ({PASSING: None}, InvalidInput, f"expected failure '{PASSING}': reason None"),
]


@pytest.mark.parametrize(("declared", "error", "words"), WRONG)
def test_a_declaration_that_means_nothing_is_an_error_by_every_door(declared, error, words, run_suite, tmp_path):
    with pytest.raises(error, match=words):
        check_backend(reference, expected_failures=declared)
    with pytest.raises(error, match=words):
        parametrize_with_checks(reference, expected_failures=declared)
    (tmp_path / "known.json").write_text(json.dumps(declared))
    done = run_suite("reference", "--nestgrad-expected-failures=known.json")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{error.__name__}: {words}" in done.stderr


def test_a_selection_of_an_unknown_check_is_an_error():
    with pytest.raises(UnknownCheck, match="no_such_check"):
        check_backend(reference, checks=["no_such_check"])


def test_a_dtype_that_the_harness_does_not_list_is_an_error_by_every_door(run_suite):
    with pytest.raises(InvalidInput, match=r"dtype 'float32'.*limit: float64.*Remedy"):
        check_backend(reference, dtype="float32")
    with pytest.raises(InvalidInput, match="dtype 'float32'"):
        parametrize_with_checks(reference, dtypes=("float32",))
    done = run_suite("reference", "--nestgrad-dtype=float32")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "InvalidInput: dtype 'float32'" in done.stderr


@pytest.mark.parametrize("text", [None, "{"])
def test_a_file_of_expected_failures_that_cannot_be_read_is_an_error(text, run_suite, tmp_path):
    if text is not None:
        (tmp_path / "known.json").write_text(text)
    done = run_suite("reference", "--nestgrad-expected-failures=known.json")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "InvalidInput: expected failures 'known.json'" in done.stderr


def test_the_suite_without_a_harness_is_an_error_and_not_a_silent_success(run_pytest):
    done = run_pytest("--pyargs", "nestgrad_conformance")
    assert done.returncode not in (0, 5)
    assert "pass --nestgrad-harness" in done.stdout + done.stderr


def test_on_result_hears_of_each_check_as_it_ends():
    heard = []
    results = check_backend(reference, checks=[PASSING, FAILING], max_examples=1, on_result=heard.append)
    assert heard == results
    assert [result.check for result in results] == [PASSING, FAILING]
