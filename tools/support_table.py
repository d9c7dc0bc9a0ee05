"""The README's support table, from the JSON reports of conformance runs: one report a backend and dtype.

    python tools/support_table.py [--check] REPORTS

REPORTS is a folder of reports. A cell says "yes" when the backend supports the spec and every check that requires it
passed in every dtype; otherwise it says what is wrong. With --check the README is compared and not written.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nestgrad

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- support-table:begin -->", "<!-- support-table:end -->"
ORDER = ("reference", "torch", "jax")
Report = dict[str, Any]


def table(reports: Sequence[Report]) -> str:
    """A Markdown table with one row a spec and one column a backend."""
    by_backend: dict[str, list[Report]] = {}
    for report in reports:
        by_backend.setdefault(report["backend"], []).append(report)
    backends = sorted(by_backend, key=lambda name: (_rank(name), name))
    specs = [*nestgrad.SPECS, *nestgrad.OPTIONAL, *nestgrad.NOT_BUILT]
    rows = [["", *(_short(name) for name in backends)], ["---"] * (len(backends) + 1)]
    rows += [[f"`{spec}`", *(_cell(spec, by_backend[name]) for name in backends)] for spec in specs]
    for dtype in sorted({report["dtype"] for report in reports}, reverse=True):
        rows.append([f"checks passed, {dtype}", *(_passed(by_backend[name], dtype) for name in backends)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _short(backend: str) -> str:
    return backend.removeprefix("nestgrad_")


def _rank(backend: str) -> int:
    return ORDER.index(_short(backend)) if _short(backend) in ORDER else len(ORDER)


def _cell(spec: str, reports: Iterable[Report]) -> str:
    """Yes, or why not, for one spec in all dtypes of one backend."""
    reports = list(reports)
    if not all(report["supports"].get(spec, False) for report in reports):
        return "missing"
    checks = [check for report in reports for check in report["checks"] if spec in check["requires"]]
    bad = [check for check in checks if check["status"] not in {"passed", "skipped"}]
    if bad:
        return f"{len(bad)} of {len(checks)} checks fail"
    if not any(check["status"] == "passed" for check in checks):
        return "unchecked"
    return "yes"


def _passed(reports: Iterable[Report], dtype: str) -> str:
    """How many of the checks that apply in this dtype passed, and how many do not apply."""
    checks = [check["status"] for report in reports if report["dtype"] == dtype for check in report["checks"]]
    if not checks:
        return "not offered"
    skipped = checks.count("skipped")
    return f"{checks.count('passed')} of {len(checks) - skipped}" + (
        f" ({skipped} {'does' if skipped == 1 else 'do'} not apply)" if skipped else ""
    )


def rewritten(readme: str, content: str) -> str:
    """The README's text with this content between the markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{README.name}: the markers {BEGIN} and {END} are missing; put them where the table belongs")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> int:
    """Write or compare the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, help="folder of JSON reports")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when the README differs")
    options = parser.parse_args()
    files = sorted(options.reports.glob("*.json"))
    if not files:
        sys.exit(f"{options.reports}: 0 reports, limit: at least 1. Remedy: nox -s conformance")
    old = README.read_text(encoding="utf-8")
    new = rewritten(old, table([json.loads(file.read_text(encoding="utf-8")) for file in files]))
    if old == new:
        print(f"{README.name}: the support table agrees with {len(files)} reports")
        return 0
    if options.check:
        print("\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), "README.md", "reports", lineterm="")))
        return 1
    README.write_text(new, encoding="utf-8")
    print(f"{README.name}: support table written from {len(files)} reports")
    return 0


if __name__ == "__main__":
    sys.exit(main())
