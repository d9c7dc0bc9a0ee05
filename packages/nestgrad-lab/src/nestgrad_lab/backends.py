"""`nestgrad backends`: what is installed, and what each backend supports."""

from __future__ import annotations

from importlib.metadata import version

from rich.console import Console

from nestgrad import NOT_BUILT, available_backends, support_table
from nestgrad_lab.engines import ENGINES
from nestgrad_lab.errors import MissingPackage
from nestgrad_lab.tables import print_table


def print_backends(console: Console | None = None) -> None:
    """A table of specs by backend, and one of what is not built with what to use instead."""
    console = console or Console()
    installed = available_backends()
    if not installed:
        raise MissingPackage("0 backends are installed, limit: at least 1. Remedy: pip install 'nestgrad-lab[torch]'.")
    try:
        table = support_table()
    except ImportError as error:
        raise MissingPackage(f"an installed backend does not import: {error}. Remedy: install it anew.") from error
    rows = [["trained with by the lab", *(_yes(name in ENGINES) for name in table)]]
    specs = [name for name in next(iter(table.values())) if name not in NOT_BUILT]
    rows += [[spec, *(_yes(row[spec]) for row in table.values())] for spec in specs]
    print_table(console, f"nestgrad {version('nestgrad')}", ["", *(_titled(name) for name in table)], rows)
    print_table(console, "not built", ["", "use instead"], [list(row) for row in NOT_BUILT.items()], text=True)


def _titled(name: str) -> str:
    distribution = available_backends()[name].dist
    return f"{name} {distribution.version}" if distribution is not None else name


def _yes(there: bool) -> str:
    return "yes" if there else "no"
