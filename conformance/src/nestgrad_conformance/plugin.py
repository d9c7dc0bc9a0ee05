"""The pytest door: options, expected failures from a file, and the JSON report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nestgrad import InvalidInput, NestgradError
from nestgrad_conformance.harness import Harness, load_harness, require_dtypes
from nestgrad_conformance.registry import CHECKS, Check, require_reasons
from nestgrad_conformance.report import write_report
from nestgrad_conformance.running import CheckResult, missing, run_check

_RECORD = "nestgrad"  # the name under which a test's record travels from a worker to the reporter


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


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the options ask for."""

    harness: Harness
    dtypes: tuple[str, ...]
    expected_failures: dict[str, str]
    examples: int
    derandomize: bool
    report: Path | None


_PLAN = pytest.StashKey[_Plan]()


def pytest_configure(config: pytest.Config) -> None:
    """Read the options before anything is collected, and install the reporter."""
    if config.getoption("--nestgrad-harness"):
        try:
            plan = _plan(lambda name: config.getoption(f"--nestgrad-{name}"))
        except NestgradError as error:
            raise pytest.UsageError(f"{type(error).__name__}: {error}") from error
        config.stash[_PLAN] = plan
        if plan.report is not None and not hasattr(config, "workerinput"):
            config.pluginmanager.register(_Reporter(plan.harness, plan.report), "nestgrad-reporter")


def _plan(option: Callable[[str], Any]) -> _Plan:
    harness = load_harness(option("harness"), device=option("device"))
    dtypes = tuple(option("dtype") or harness.dtypes)
    require_dtypes(harness, dtypes)
    return _Plan(
        harness=harness,
        dtypes=dtypes,
        expected_failures=_expected_failures(option("expected-failures")),
        examples=option("examples"),
        derandomize=not option("random"),
        report=option("report"),
    )


def _expected_failures(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        declared: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected failures {str(file)!r}: {error}, limit: a JSON object of reasons by check name. "
            "Remedy: write one."
        ) from error
    require_reasons(declared)
    return declared


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the backend and the number of checks."""
    plan = config.stash.get(_PLAN, None)
    if plan is None:
        return None
    return f"nestgrad conformance: {plan.harness.backend.__name__}, {', '.join(plan.dtypes)}, {len(CHECKS)} checks"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the suite's one test its checks."""
    if "nestgrad_check" not in metafunc.fixturenames:
        return
    plan = metafunc.config.stash.get(_PLAN, None)
    if plan is None:
        raise pytest.UsageError(
            "no backend to check. Remedy: pass --nestgrad-harness with package.module:attribute or a backend's name."
        )
    cases: list[Any] = []
    for dtype in plan.dtypes:
        for check in CHECKS.values():
            reason = plan.expected_failures.get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            cases.append(pytest.param((check, dtype), id=f"{check.name}-{dtype}", marks=marks))
    metafunc.parametrize("nestgrad_check", cases)


@pytest.fixture
def nestgrad_run(nestgrad_check: tuple[Check, str], request: pytest.FixtureRequest) -> Callable[[], None]:
    """A call that runs the parametrised check and records how it ended."""
    plan = request.config.stash[_PLAN]
    check, dtype = nestgrad_check

    def run() -> None:
        started, examples, status, message = time.perf_counter(), 0, "failed", ""
        try:
            why = missing(check, plan.harness, dtype)
            if why is not None:
                status, message = "skipped", why
                pytest.skip(why)
            examples = run_check(check, plan.harness, dtype, max_examples=plan.examples, derandomize=plan.derandomize)
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
            request.node.user_properties.append((_RECORD, {"dtype": dtype, **result.record()}))

    return run


class _Reporter:
    """Gathers what the tests recorded, from all workers, and writes one report a dtype."""

    def __init__(self, harness: Harness, path: Path) -> None:
        self._harness, self._path = harness, path
        self._results: dict[str, list[CheckResult]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, record in report.user_properties:
            if name == _RECORD:
                self._add(record, report)

    def _add(self, record: Any, report: pytest.TestReport) -> None:
        values: dict[str, Any] = {**record, "requires": tuple(record["requires"])}
        dtype = values.pop("dtype")
        result = CheckResult(**values)
        if result.status == "failed" and report.skipped:
            result = replace(result, status="xfailed", message=str(getattr(report, "wasxfail", "")))
        elif result.status == "passed" and report.failed:  # expected to fail, but passed
            result = replace(result, status="failed", message=report.longreprtext)
        self._results.setdefault(dtype, []).append(result)

    def pytest_sessionfinish(self) -> None:
        for dtype, results in self._results.items():
            write_report(
                self._path.with_name(f"{self._path.stem}-{dtype}{self._path.suffix}"), self._harness, dtype, results
            )
