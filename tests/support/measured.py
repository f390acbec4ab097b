"""What every report of a measurement has in common. Used by the tests of `tests/bench`."""

from __future__ import annotations

from collections.abc import Mapping

from bench.calibration import UNIT_NAME
from bench.report import Figure, Report
from bench.system import Options

SMALL = Options(rounds=1, durability="os")


def named(report: Report, durability: str = "os") -> dict[str, Figure]:
    """Check what all reports have in common; return the figures by name, the last of each."""
    assert report.machine["cores"] > 0
    for figure in report.figures:
        assert figure.samples
        assert all(sample >= 0 for sample in figure.samples)
        assert figure.durability in {durability, "none", "fsync"}
    labels = [figure.label for figure in report.figures]
    assert len(labels) == len(set(labels))
    figures = {figure.name: figure for figure in report.figures}
    for figure in report.figures:
        assert not figure.ground or figure.ground in figures, f"{figure.name} names no ground of its report"
    return figures


def has_cpu_of(figures: Mapping[str, Figure], name: str, *groups: str) -> None:
    """Check that a measurement has the processor time of each group of processes and of all, also in units."""
    whole = [figure for key, figure in figures.items() if key.startswith(f"{name}, CPU of all")]
    for figure in (*(figures[f"{name}, CPU of {group}"] for group in groups), *whole):
        assert figure.unit in {"µs/event", "µs/read"}
        assert len(figure.in_units) == len(figure.samples)
    assert len(whole) == 1
    assert whole[0].median > 0
    assert figures[UNIT_NAME].median > 0
