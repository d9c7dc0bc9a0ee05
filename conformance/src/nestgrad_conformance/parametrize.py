"""The decorator door: a backend's own test-suite runs the checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nestgrad_conformance.harness import Harness, require_dtypes
from nestgrad_conformance.registry import CHECKS, require_reasons
from nestgrad_conformance.running import missing, run_check


def parametrize_with_checks(
    harness: Harness,
    *,
    dtypes: tuple[str, ...] | None = None,
    max_examples: int = 100,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Parametrise `def test_conformance(run): run()` by every check and dtype of the harness.

    expected_failures maps a check's name to its reason; such a check must fail (strictly). UnknownCheck for a name that
    does not exist, InvalidInput for a reason left out or a dtype that the harness does not list.
    """
    declared = dict(expected_failures or {})
    wanted = harness.dtypes if dtypes is None else dtypes
    require_reasons(declared)
    require_dtypes(harness, wanted)
    cases: list[Any] = []
    for dtype in wanted:
        for check in CHECKS.values():
            marks: list[Any] = []
            why = missing(check, harness, dtype)
            if why is not None:
                marks.append(pytest.mark.skip(reason=why))
            elif check.name in declared:
                marks.append(pytest.mark.xfail(reason=declared[check.name], strict=True))

            def run(check: Any = check, dtype: str = dtype) -> None:
                run_check(check, harness, dtype, max_examples=max_examples)

            cases.append(pytest.param(run, id=f"{check.name}-{dtype}", marks=marks))
    return pytest.mark.parametrize("run", cases)
