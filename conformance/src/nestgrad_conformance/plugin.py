"""The pytest door: options, expected failures from a file, and the JSON report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nestgrad_conformance.harness import load_harness
from nestgrad_conformance.registry import CHECKS, require_known
from nestgrad_conformance.report import write_report
from nestgrad_conformance.running import CheckResult, missing, run_check


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite's own options."""
    group = parser.getgroup("nestgrad")
    group.addoption("--nestgrad-harness", help="package.module:attribute, or the name of an installed backend")
    group.addoption("--nestgrad-dtype", action="append", help="float64 or float32; all of the harness's when not given")
    group.addoption(
        "--nestgrad-device", default=None, help="passed to the harness, when that is a function of the device"
    )
    group.addoption("--nestgrad-examples", type=int, default=100, help="problems drawn for each check")
    group.addoption("--nestgrad-random", action="store_true", help="draw other problems on every run")
    group.addoption("--nestgrad-expected-failures", type=Path, help="JSON file: {check name: reason}")
    group.addoption("--nestgrad-report", type=Path, help="JSON file to write; the dtype is put before its suffix")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the backend and what it says it lacks."""
    path = config.getoption("--nestgrad-harness")
    return f"nestgrad conformance: {path}, {len(CHECKS)} checks" if path else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the suite's one test its checks."""
    if "nestgrad_check" not in metafunc.fixturenames:
        return
    config = metafunc.config
    path = config.getoption("--nestgrad-harness")
    if not path:
        metafunc.parametrize(
            "nestgrad_check", [pytest.param(None, marks=pytest.mark.skip(reason="pass --nestgrad-harness"))]
        )
        return
    harness = load_harness(path, device=config.getoption("--nestgrad-device"))
    file = config.getoption("--nestgrad-expected-failures")
    declared: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file else {}
    require_known(declared)
    cases: list[Any] = []
    for dtype in config.getoption("--nestgrad-dtype") or harness.dtypes:
        for check in CHECKS.values():
            marks = []
            if check.name in declared:
                marks.append(pytest.mark.xfail(reason=declared[check.name], strict=True))
            cases.append(pytest.param((harness, check, dtype), id=f"{check.name}-{dtype}", marks=marks))
    metafunc.parametrize("nestgrad_check", cases)


@pytest.fixture
def nestgrad_run(nestgrad_check: Any, request: pytest.FixtureRequest) -> Any:
    """A call that runs the parametrised check and records how it ended."""

    def run() -> None:
        harness, check, dtype = nestgrad_check
        config = request.config
        started, examples, status, message = time.perf_counter(), 0, "failed", ""
        try:
            why = missing(check, harness, dtype)
            if why is not None:
                status, message = "skipped", why
                pytest.skip(why)
            examples = run_check(
                check,
                harness,
                dtype,
                max_examples=config.getoption("--nestgrad-examples"),
                derandomize=not config.getoption("--nestgrad-random"),
            )
            status = "passed"
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            result = CheckResult(
                check=check.name,
                status=status,
                message=message,
                seconds=time.perf_counter() - started,
                examples=examples,
                requires=check.requires,
            )
            request.node.user_properties.append(("nestgrad", {"dtype": dtype, **result.record()}))

    return run


class _Reporter:
    """Gathers what the tests recorded, from all workers, and writes one report a dtype."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: dict[str, list[CheckResult]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and not (report.when == "setup" and report.skipped):
            return
        for name, record in report.user_properties:
            if name == "nestgrad" and isinstance(record, dict):
                values = {**record, "requires": tuple(record["requires"])}
                dtype = values.pop("dtype")
                if hasattr(report, "wasxfail"):
                    values["status"] = "xfailed" if report.skipped else "failed"
                self._results.setdefault(dtype, []).append(CheckResult(**values))

    def pytest_sessionfinish(self) -> None:
        path: Path | None = self._config.getoption("--nestgrad-report")
        if path is None or not self._results or hasattr(self._config, "workerinput"):
            return
        harness = load_harness(
            self._config.getoption("--nestgrad-harness"), device=self._config.getoption("--nestgrad-device")
        )
        for dtype, results in self._results.items():
            write_report(path.with_name(f"{path.stem}-{dtype}{path.suffix}"), harness, dtype, results)


def pytest_configure(config: pytest.Config) -> None:
    """Install the reporter."""
    config.pluginmanager.register(_Reporter(config), "nestgrad-reporter")
