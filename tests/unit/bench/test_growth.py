"""Growth repeats a measurement at three sizes and reports the slopes."""

import pytest

from bench import growth, rebuild
from bench.report import Figure, Report
from support.measured import SMALL


async def test_growth_compares_ten_times_the_events_and_ten_times_the_documents(monkeypatch):
    async def by_sizes(options, plan):
        """Replace a measurement, which has its own test: slower at each size."""
        rate = 1_000.0 / (plan.events * plan.documents)
        figure = Figure(name="rebuild", unit="events/s", samples=(rate,), durability="fsync")
        return Report(command="rebuild", durability="fsync", parameters={}, machine={}, figures=(figure,))

    monkeypatch.setattr(rebuild, "run", by_sizes)
    report = await growth.run(SMALL, growth.Plan(events=60, documents=5, measurements=("rebuild",)))
    assert [(figure.axis, figure.at) for figure in report.figures if figure.axis] == [
        ("events in the log", 60),
        ("events in the log", 600),
        ("documents", 5),
        ("documents", 50),
    ]
    slopes = [figure for figure in report.figures if "times the" in figure.name]
    assert [slope.median for slope in slopes] == pytest.approx([0.1, 0.1])
