"""What is drawn, and what is refused before anything is measured."""

import sys
from xml.etree import ElementTree as ET

import pytest

from bench.plot import check_drawable, draw, grouped
from bench.report import Figure, Goal, Report
from refold.core.errors import Refused


def report():
    goal = Goal(value=5)
    figures = (
        Figure(name="rebuild", unit="events/s", samples=(1.0, 2.0, 4.0), durability="fsync", goal=goal),
        Figure(name="read alone", unit="events/s", samples=(9.0,), durability="none", is_ground=True),
        Figure(name="version", unit="ms", samples=(1.0,), durability="none", axis="events", at=10),
        Figure(name="version", unit="ms", samples=(1.5,), durability="none", axis="events", at=100),
    )
    return Report(command="rebuild", durability="fsync", parameters={}, machine={}, figures=figures)


def test_figures_are_grouped_into_panels_by_unit_and_axis():
    panels = grouped(report())
    assert list(panels) == [("events/s", ""), ("ms", "events")]
    assert [len(figures) for figures in panels.values()] == [2, 2]


def test_a_report_is_drawn_with_its_names(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="comes with the extra `bench`")
    path = tmp_path / "rebuild.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(report(), path)
    texts = "".join(ET.parse(path).getroot().itertext())
    for text in ("rebuild", "read alone", "version", "durability fsync"):
        assert text in texts


@pytest.mark.parametrize("name", ["rebuild.txt", "nowhere/rebuild.svg"])
def test_an_unwritable_image_path_is_refused(tmp_path, name):
    pytest.importorskip("matplotlib", reason="comes with the extra `bench`")
    with pytest.raises(Refused) as refused:
        check_drawable(tmp_path / name)
    assert refused.value.field == "--plot"


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    # As if the library were not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Refused, match=r"refold\[bench\]"):
        check_drawable(tmp_path / "rebuild.svg")
