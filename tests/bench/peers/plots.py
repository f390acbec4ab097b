"""The plots beside the table: a bar a peer, its median, with minimum and maximum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from report import Panel, Row, panels, shown

OURS, OTHERS, WEAKER = "#1f6f8b", "#9aa5ab", "#e3c9a8"
PANEL_INCHES = 3.1
ROW_INCHES = 0.34


def draw(rows: Sequence[Row], folder: Path) -> list[str]:
    """Write an SVG a group of figures; return their names."""
    # Text stays text, and ids are the same in every run.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "refold", "font.size": 8})
    drawn = []
    for name, group in panels().items():
        measured = [row for row in rows if any(panel.figure in row.samples for panel in group)]
        width = PANEL_INCHES * len(group) + 2.2
        figure = Figure(figsize=(width, ROW_INCHES * len(measured) + 1.1), layout="constrained")
        axes = figure.subplots(1, len(group), sharey=True, squeeze=False)[0]
        for place, panel in zip(axes, group, strict=True):
            _draw_panel(place, panel, measured)
        file = f"peers-{name}.svg"
        figure.savefig(folder / file, metadata={"Date": None})
        drawn.append(file)
    return drawn


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    widest = max((max(row.samples[panel.figure]) for row in rows if panel.figure in row.samples), default=1.0)
    for at, row in enumerate(rows):
        spread = row.spread(panel.figure)
        if spread is None:
            continue
        colour = OURS if row.is_ours else OTHERS if row.is_durable else WEAKER
        beyond = [[spread.median - spread.least], [spread.most - spread.median]]
        axes.barh(at, spread.median, xerr=beyond, color=colour, error_kw={"elinewidth": 0.8, "capsize": 2})
        axes.text(spread.most + widest * 0.02, at, shown(spread.median), va="center")
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_title(f"{panel.title}\n{panel.unit}{', less is better' if panel.unit == 'ms' else ''}")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(0, widest * 1.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
