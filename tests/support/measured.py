"""What every report of a measurement has in common. Used by the tests of `tests/bench`."""

from __future__ import annotations

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
    figures = {figure.name: figure for figure in report.figures}
    for figure in report.figures:
        assert not figure.ground or figure.ground in figures, f"{figure.name} names no ground of its report"
    return figures
