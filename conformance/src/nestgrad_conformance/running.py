"""Running checks: one check on one backend in one dtype, and the plain-call door."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nestgrad import OPTIONAL, SPECS, offers
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.harness import Harness, require_dtypes
from nestgrad_conformance.registry import CHECKS, Check, require_known, require_reasons


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """How one check ended: passed, failed, skipped (not supported), or xfailed (failed as declared)."""

    check: str
    status: str
    message: str
    seconds: float
    examples: int
    requires: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)


def missing(check: Check, harness: Harness, dtype: str) -> str | None:
    """Why the check does not apply to this backend in this dtype; None when it does."""
    if dtype not in check.dtypes:
        return f"not in {dtype}"
    for name in check.requires:
        if name in SPECS:
            there = harness.backend.supports(SPECS[name])
        elif name in OPTIONAL:
            there = offers(harness.backend, name)
        else:
            there = getattr(harness, name) is not None
        if not there:
            return f"{name} is not supported"
    return None


def run_check(
    check: Check,
    harness: Harness,
    dtype: str,
    *,
    max_examples: int = 100,
    derandomize: bool = True,
    shrink: bool = True,
) -> int:
    """Run a check on drawn problems; raises what the check raises. Returns the number of problems that it held for.

    derandomize: draw the same problems on every run, others for each check.
    """
    held = 0

    @settings(
        max_examples=max(1, max_examples // 10) if check.slow else max_examples,
        deadline=None,
        database=None,
        derandomize=False,  # hypothesis would seed by the source of on_example, the same for every check
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(st.data())
    def on_example(data: Any) -> None:
        nonlocal held
        check.function(Context(harness, dtype), Draw(data))
        held += 1

    run = seed(zlib.crc32(check.name.encode()))(on_example) if derandomize else on_example
    with harness.precision(dtype):
        run()
    return held


def check_backend(
    harness: Harness,
    *,
    dtype: str = "float64",
    max_examples: int = 100,
    checks: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run the checks without pytest and return how each ended.

    expected_failures maps a check's name to the reason; one that passes is reported as failed. UnknownCheck for a name
    that does not exist, InvalidInput for a reason left out or a dtype that the harness does not list.
    """
    declared = dict(expected_failures or {})
    chosen = list(CHECKS) if checks is None else list(checks)
    require_known(chosen)
    require_reasons(declared)
    require_dtypes(harness, [dtype])
    results: list[CheckResult] = []
    for name in chosen:
        result = _one(CHECKS[name], harness, dtype, max_examples, declared.get(name))
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def _one(check: Check, harness: Harness, dtype: str, max_examples: int, reason: str | None) -> CheckResult:
    started, examples = time.perf_counter(), 0
    why = missing(check, harness, dtype)
    if why is not None:
        status, message = "skipped", why
    else:
        try:
            examples = run_check(check, harness, dtype, max_examples=max_examples)
            status, message = "passed", ""
            if reason is not None:
                status, message = "failed", f"expected to fail ({reason}), but passes: remove it from expected_failures"
        except Exception as error:  # noqa: BLE001  (whatever a backend raises is that check's failure)
            status = "xfailed" if reason is not None else "failed"
            message = reason or f"{type(error).__name__}: {error}"
    return CheckResult(
        check=check.name,
        status=status,
        message=message,
        seconds=time.perf_counter() - started,
        examples=examples,
        requires=check.requires,
    )
