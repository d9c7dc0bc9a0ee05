"""Figures that are told apart without colour: a sheet to draw on, line styles, axes, and the files of a figure."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "ls": dash}
    for colour in ("black", "0.5", "0.72")
    for dash in ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
)


def new_figure(width: float = 9, height: float = 5) -> Any:
    """An empty matplotlib figure, in inches, of no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (over a second, when cold)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Inside, the same figure is drawn and saved as the same file."""
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "nestgrad"}):
        yield


def saved(figure: Any) -> dict[str, bytes]:
    """{"png": ..., "svg": ...} of the figure; within `repeatable`, always the same."""
    files: dict[str, bytes] = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata=metadata)
        files[kind] = file.getvalue()
    return files


def line_styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes of so many lines; 12 are different."""
    return [_STYLES[i % len(_STYLES)] for i in range(count)]


def plain(axes: Any) -> None:
    """A light grid; losses as numbers that one reads at a glance, not as powers."""
    from matplotlib.ticker import LogFormatter  # noqa: PLC0415

    class Short(LogFormatter):
        def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
            return f"{x:g}"

    for axis in axes:
        for scaled in (axis.xaxis, axis.yaxis):
            if scaled.get_scale() == "log":
                scaled.set_major_formatter(Short())
                scaled.set_minor_formatter(Short(minor_thresholds=(1.2, 0.4)))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, color="0.92", lw=0.6)
        axis.set_axisbelow(True)
