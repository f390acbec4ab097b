"""Draw dashboards with matplotlib, from Prometheus' data and laid out as Grafana lays them out.

Used by the command `acceptance.dashboards`. Grafana's own drawing differs in detail; expressions, units, legends, and
thresholds are those of its files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from support.dashboards import Panel, panels, substituted
from support.monitored import Monitored

COLUMN_INCHES, LINE_INCHES = 0.75, 0.42
PALETTE = 64
LEGEND_MAX = 6
"""Lines of a legend; further series are counted."""

COLORS = {
    "green": "#3a9d4f",
    "orange": "#e08a1e",
    "red": "#d0313f",
    "blue": "#3b78c2",
    "text": "#b9c0c7",
    "transparent": "#ffffff",
}
_SCALED = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d")),
    "bytes": ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB")),
    "short": ((1, ""), (1e3, "K"), (1e6, "M"), (1e9, "G")),
}
_SCALED["dtdurations"], _SCALED["Bps"] = _SCALED["s"], _SCALED["bytes"]
_RATES = {
    "reqps": " req/s",
    "eps": " ev/s",
    "cps": " c/s",
    "rps": " rd/s",
    "wps": " wr/s",
    "mps": " msg/s",
    "Bps": "/s",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a panel."""

    legend: str
    labels: dict[str, str]
    times: list[float]
    values: list[float]


def draw(monitored: Monitored, name: str, into: Path, *, window: str, rate_interval: str) -> None:
    """Draw one dashboard."""
    mpl.rcParams.update({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False})
    found = list(panels(name))
    grid = [panel.content["gridPos"] for panel in found]
    lines = max(each["y"] + each["h"] for each in grid)
    figure = Figure(figsize=(24 * COLUMN_INCHES, lines * LINE_INCHES), dpi=100)
    rows: dict[str, int] = {}
    for panel, place in zip(found, grid, strict=True):
        rows.setdefault(panel.row, place["y"])
        series = list(_series(monitored, panel, window, rate_interval))
        axes = _axes(figure, place, lines, legend_lines=len(series) if panel.kind == "timeseries" else 0)
        axes.set_title(panel.title, loc="left", fontsize=8, fontweight="bold")
        if not series:
            axes.text(
                0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="#888888"
            )
            axes.set_axis_off()
            continue
        _DRAWN[panel.kind](axes, panel, series)
    for title, y in rows.items():
        figure.text(0.008, 1 - (y - 0.55) / lines, title, fontsize=10, fontweight="bold", va="center")
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    # A palette takes a third of the space.
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(into, optimize=True)


def _axes(figure: Figure, place: dict[str, int], lines: int, *, legend_lines: int) -> Axes:
    """Place a panel where the dashboard has it, with room for its title and the legend below."""
    below = 0.55 + 0.36 * min(legend_lines, LEGEND_MAX + 1) if legend_lines else 0.2
    left, right = (place["x"] + 1.2) / 24, (place["x"] + place["w"] - 0.3) / 24
    bottom, top = place["y"] + place["h"] - 0.2 - below, place["y"] + 0.8
    return figure.add_axes((left, 1 - bottom / lines, right - left, (bottom - top) / lines))


def _series(monitored: Monitored, panel: Panel, window: str, rate_interval: str) -> Iterator[Series]:
    for expression, legend in panel.queries:
        sent = substituted(expression, window=window, rate_interval=rate_interval)
        for found in monitored.prometheus.query_range(sent, start=monitored.start, end=monitored.end):
            labels = found["metric"]
            yield Series(
                legend=re.sub(r"\{\{(\w+)\}\}", lambda it: labels.get(it[1], ""), legend).strip(),  # noqa: B023
                labels=labels,
                times=[time for time, _ in found["values"]],
                values=[float(value) for _, value in found["values"]],
            )


def _draw_lines(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    unit = panel.defaults["unit"]
    start = min(each.times[0] for each in series)
    custom = panel.defaults["custom"]
    if "stacking" in custom:
        _draw_stacked(axes, series, start)
    else:
        for each in series:
            axes.plot([time - start for time in each.times], each.values, linewidth=1)
    # As in Grafana, a threshold far above the values does not flatten them.
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1])
    if "thresholdsStyle" in custom:
        for step in panel.defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=0.8, linestyle="--")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{datetime.fromtimestamp(start + value, UTC):%M:%S}")
    axes.grid(visible=True, linewidth=0.3)
    named = sorted(
        zip(series, axes.get_lines() or axes.collections, strict=False), key=lambda it: it[0].legend
    )
    texts = [
        f"{each.legend}   last {shown(each.values[-1], unit)}   max {shown(_top(each), unit)}"
        for each, _ in named
    ]
    if len(texts) > LEGEND_MAX:
        texts = [*texts[:LEGEND_MAX], f"and {len(texts) - LEGEND_MAX} more"]
    handles = [handle for _, handle in named[: len(texts)]]
    where = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.1), "borderaxespad": 0.4, "frameon": False}
    axes.legend(handles, texts, fontsize=6.5, handlelength=1, labelspacing=0.25, **where)


def _draw_stacked(axes: Axes, series: Sequence[Series], start: float) -> None:
    times = sorted({time for each in series for time in each.times})
    heights = []
    for each in series:
        known = dict(zip(each.times, each.values, strict=True))
        heights.append([0.0 if math.isnan(known.get(time, 0.0)) else known.get(time, 0.0) for time in times])
    axes.stackplot([time - start for time in times], heights, alpha=0.7)


def _draw_states(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    states = panel.defaults["mappings"][0]["options"]
    start = min(each.times[0] for each in series)
    for row, each in enumerate(series):
        for time, value in zip(each.times, each.values, strict=True):
            state = states.get(f"{value:g}", {"color": "red"})
            axes.broken_barh([(time - start, 1)], (row - 0.4, 0.8), color=COLORS[state["color"]])
        last = states.get(f"{each.values[-1]:g}", {"text": f"{each.values[-1]:g}"})
        axes.text(each.times[-1] - start, row, f" {last['text']}", va="center", fontsize=6)
    axes.set_yticks(range(len(series)), [each.legend for each in series], fontsize=6)
    axes.tick_params(axis="y", direction="in", pad=-4, length=0)
    for label in axes.get_yticklabels():
        label.set_horizontalalignment("left")
    axes.set_ylim(-0.6, max(3, len(series)) - 0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{datetime.fromtimestamp(start + value, UTC):%M:%S}")


def _draw_values(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    axes.set_axis_off()
    states = (panel.defaults.get("mappings") or [{"options": {}}])[0]["options"]
    for number, each in enumerate(series):
        value = each.values[-1]
        state = states.get(f"{value:g}")
        color, text = _threshold(panel, value), shown(value, panel.defaults["unit"])
        if state:
            color, text = state["color"], state["text"]
        y = 1 - (number + 0.5) / len(series)
        name = f"{each.legend}: " if len(series) > 1 else ""
        size = 9 if len(series) > 2 else 14
        axes.text(0.5, y, f"{name}{text}", ha="center", va="center", fontsize=size, color=COLORS[color])


def _draw_table(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    axes.set_axis_off()
    columns = panel.content["transformations"][0]["options"]["include"]["names"]
    rows = [[each.labels.get(column, "") for column in columns] for each in series]
    axes.table(rows, colLabels=columns, loc="upper left", cellLoc="left", edges="horizontal")


def _threshold(panel: Panel, value: float) -> str:
    reached = [
        it["color"] for it in panel.defaults["thresholds"]["steps"] if value >= (it["value"] or -math.inf)
    ]
    return str(reached[-1]) if reached else "green"


def _top(series: Series) -> float:
    return max((value for value in series.values if not math.isnan(value)), default=math.nan)


def shown(value: float, unit: str) -> str:
    """Write a value in a unit of Grafana's."""
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "∞"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    steps = _SCALED.get(unit, _SCALED["short"])
    scale, name = steps[0] if unit != "s" else (1, "s")
    for size, larger in steps:
        if abs(value) >= size:
            scale, name = size, larger
    return f"{value / scale:.3g}{' ' if name else ''}{name}{_RATES.get(unit, '')}"


_DRAWN: dict[str, Any] = {
    "timeseries": _draw_lines,
    "state-timeline": _draw_states,
    "stat": _draw_values,
    "table": _draw_table,
}
