"""`nestgrad check`: the conformance suite on one backend."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from nestgrad_lab.errors import MissingPackage, OptionError
from nestgrad_lab.runs import require_new
from nestgrad_lab.settings import require_at_least


def check_and_print(
    backend: str, dtype: str, examples: int, report: Path | None, console: Console | None = None
) -> bool:
    """Run every check, a line each; whether none failed."""
    suite = _suite()
    console = console or Console()
    require_at_least("--examples", examples, 1)
    if report is not None:
        require_new(report)
        if not report.parent.is_dir():
            raise OptionError(
                f"--report {report}: {report.parent} is no folder. Remedy: name a file in one that exists."
            )
    harness = suite.load_harness(backend)
    if dtype not in harness.dtypes:
        raise OptionError(
            f"--dtype {dtype!r}, limit: {', '.join(harness.dtypes)}, as {backend} declares. Remedy: name one."
        )

    def show(result: Any) -> None:
        said = f"  {result.message}" if result.message else ""
        console.print(
            f"{result.status:<7} {result.check} ({result.seconds:.1f} s){said}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    results = suite.check_backend(harness, dtype=dtype, max_examples=examples, on_result=show)
    if report is not None:
        suite.write_report(report, harness, dtype, results)
    count = Counter(result.status for result in results)
    said = ", ".join(f"{count[status]} {status}" for status in ("passed", "failed", "skipped", "xfailed"))
    console.print(f"{backend}, {dtype}, {examples} examples a check: {said}", highlight=False, markup=False)
    return not count["failed"]


def _suite() -> Any:
    try:
        import nestgrad_conformance  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise MissingPackage(
            f"nestgrad check needs nestgrad-conformance: {error}. Remedy: pip install nestgrad-conformance."
        ) from error
    return nestgrad_conformance
