"""The JSON record of a run, from which the support table is made."""

import json

import pytest

import nestgrad
from nestgrad_conformance import CHECKS, check_backend, write_report
from nestgrad_reference.testing import harness as reference

PASSING = "core_names_are_reexported"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_writes_one_report_a_dtype_from_all_workers(workers, toy, run_suite, tmp_path):
    chosen = f"{PASSING} or trajectory_equals_the_reference"
    done = run_suite(
        "nestgrad_toy:harness",
        *("--nestgrad-examples=3", "--nestgrad-report=reports/run.json", "-k", chosen, "-p", "xdist", "-n", workers),
    )
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["run-float32.json", "run-float64.json"]
    statuses = {}
    for dtype in ("float64", "float32"):
        record = json.loads((tmp_path / "reports" / f"run-{dtype}.json").read_text())
        assert record["dtype"] == dtype
        statuses[dtype] = {check["check"]: check["status"] for check in record["checks"]}
    assert statuses["float64"] == {PASSING: "passed", "trajectory_equals_the_reference": "passed"}
    assert statuses["float32"] == {PASSING: "passed", "trajectory_equals_the_reference": "skipped"}


def test_a_report_says_what_ran_and_what_is_supported(tmp_path):
    results = check_backend(reference, checks=[PASSING, "one_neumann_term_equals_identity"], max_examples=3)
    write_report(tmp_path / "new" / "run.json", reference, "float64", results)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]
    record = json.loads((tmp_path / "new" / "run.json").read_text())
    assert record.keys() == {"backend", "dtype", "versions", "supports", "checks"}
    assert (record["backend"], record["dtype"]) == ("nestgrad_reference", "float64")
    assert {"python", "numpy", "nestgrad", "nestgrad-reference", "nestgrad-conformance"} <= record["versions"].keys()
    assert record["supports"].keys() == nestgrad.SPECS.keys() | set(nestgrad.OPTIONAL) | nestgrad.NOT_BUILT.keys()
    assert record["supports"]["Neumann"] is True
    assert record["supports"]["OnePass"] is True
    assert not any(record["supports"][name] for name in nestgrad.NOT_BUILT)
    for check in record["checks"]:
        assert check.keys() == {"check", "status", "message", "seconds", "examples", "requires"}
        assert check["requires"] == list(CHECKS[check["check"]].requires)
        assert (check["status"], check["message"], check["examples"]) == ("passed", "", 3)
        assert check["seconds"] > 0.0
