"""A report drawn for people: bars with their spread, goals and ground; lines where something grows.

Used by the command. matplotlib comes with the extra `bench` and is loaded only to draw.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.report import Figure, Report
from refold.bench import number
from refold.core.errors import Refused

SUFFIXES: Final = frozenset({".svg", ".png", ".pdf"})
OURS: Final = "#2a6f97"
GROUND: Final = "#b0b0b0"
GOAL: Final = "#c1121f"
EXTREMES: Final = (", p99.9", ", max")
BAR_INCHES: Final = 0.32
LINES_INCHES: Final = 3.2
WIDTH_INCHES: Final = 10.0


def check_drawable(path: Path) -> None:
    """Refuse, before anything is measured, what could not be drawn afterwards. Raises `Refused`."""
    if find_spec("matplotlib") is None:
        raise Refused("bad_usage", "needs matplotlib: pip install 'refold[bench]'", field="--plot")
    if path.suffix not in SUFFIXES:
        raise Refused(
            "bad_usage", f"must end in one of {', '.join(sorted(SUFFIXES))}", field="--plot", shape=str(path)
        )
    if not path.absolute().parent.is_dir():
        raise Refused("bad_usage", "there is no such folder", field="--plot", shape=str(path.parent))


def draw(report: Report, path: Path) -> None:
    """Draw a panel for each unit, and one for each thing that grows."""
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - comes with an extra, and takes a second.

    panels = grouped(report)
    heights = [_height(key, figures) for key, figures in panels.items()]
    canvas = Canvas(figsize=(WIDTH_INCHES, sum(heights) + 0.6), layout="constrained")
    canvas.suptitle(f"{report.command}, durability {report.durability}")
    axes = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, ((unit, grown), figures) in zip(axes, panels.items(), strict=True):
        _draw_lines(axis, figures, unit, grown) if grown else _draw_bars(axis, figures, unit)
    canvas.savefig(path)


def grouped(report: Report) -> dict[tuple[str, str], list[Figure]]:
    """Return the figures of each panel, by unit and by what grows."""
    panels: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in report.figures:
        panels[figure.unit, figure.axis].append(figure)
    return dict(panels)


def _height(key: tuple[str, str], figures: list[Figure]) -> float:
    return LINES_INCHES if key[1] else BAR_INCHES * len(figures) + 0.7


def _draw_bars(axis: Any, figures: list[Figure], unit: str) -> None:
    for place, figure in enumerate(figures):
        low, high = figure.median - min(figure.samples), max(figure.samples) - figure.median
        colour = GROUND if figure.is_ground else OURS
        axis.barh(place, figure.median, xerr=[[low], [high]], color=colour, capsize=2)
        axis.annotate(
            number(figure.median),
            (figure.median, place),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=7,
        )
        if figure.goal is not None:
            axis.plot([figure.goal.value] * 2, [place - 0.45, place + 0.45], color=GOAL, linewidth=2)
    axis.set_yticks(range(len(figures)), [figure.name for figure in figures], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{unit} (grey: ground; red: goal)")


def _draw_lines(axis: Any, figures: list[Figure], unit: str, grown: str) -> None:
    lines: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        # So many lines would hide each other; the table has the extremes.
        if not figure.name.endswith(EXTREMES):
            lines[figure.name].append(figure)
    for name, points in lines.items():
        ordered = sorted(points, key=lambda point: point.at)
        at, middle = [point.at for point in ordered], [point.median for point in ordered]
        spread = [
            [point.median - min(point.samples) for point in ordered],
            [max(point.samples) - point.median for point in ordered],
        ]
        style = "--" if ordered[0].is_ground else "-"
        axis.errorbar(at, middle, yerr=spread, marker="o", capsize=3, label=name, linestyle=style)
    sizes = sorted({figure.at for figure in figures})
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.set_ylim(bottom=0)
    axis.set_xlabel(grown)
    axis.set_ylabel(unit)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
