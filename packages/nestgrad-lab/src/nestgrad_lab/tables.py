"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def print_table(
    console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False
) -> None:
    """A small table: the first column names the row, the others hold figures, or text."""
    if title:
        console.print(title, style="bold", highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 or text else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
