"""The dashboards in infra/grafana: their files, the metrics they show, what they answer for a running system."""

from __future__ import annotations

import math
import re
import runpy
import warnings

import pytest

from support.contracts import contract
from support.dashboards import FOLDER, metrics_of, panels, substituted
from support.monitored import monitored
from support.sources import ROOT

SECONDS = 40
REQUESTS = "refold_http_request_seconds"
OF_PROMETHEUS = {"up", "ALERTS"}
SCRAPED = {"job", "instance", "service"}

_MATCHED = re.compile(r"(\w+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)[!=]~?\"")
_GROUPED = re.compile(r"by \(([\w,]*)\)")


@pytest.fixture(scope="module")
def make():
    """Run make.py as a module; return its names."""
    # The library prefers the newer format of files, which only the newest Grafana reads.
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.syspath_prepend(FOLDER)
        return runpy.run_path(str(FOLDER / "make.py"))


def described():
    return {metric["name"]: metric for metric in contract("metrics.json")["metrics"]}


def test_the_files_are_what_make_writes(make):
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == make["files"](), "run `python infra/grafana/make.py`"


def test_every_metric_is_on_a_panel_or_listed_as_not_shown(make):
    used = set().union(*(metrics_of(expression) for panel in panels() for expression, _ in panel.queries))
    assert used - OF_PROMETHEUS <= described().keys()
    assert described().keys() - used == make["NOT_SHOWN"].keys()


def test_expressions_use_labels_that_their_metrics_have():
    for panel in panels():
        for expression, legend in panel.queries:
            known = SCRAPED | {"le", "alertname", "alertstate"}
            for metric in metrics_of(expression) - OF_PROMETHEUS:
                known |= set(described()[metric]["labels"])
            used = {
                label for _, matchers in _MATCHED.findall(expression) for label in _LABEL.findall(matchers)
            }
            used |= {label for labels in _GROUPED.findall(expression) for label in labels.split(",") if label}
            used |= set(re.findall(r"\{\{(\w+)\}\}", legend))
            assert used <= known, f"{panel.name}: {used - known}"


def test_panels_and_rows_have_ids_of_their_own(make):
    for board in make["BOARDS"]:
        ids = [panel.id_val or 0 for panel in make["built"](board).panels]
        assert sorted({*ids, 0}) == [0, *sorted(ids)], board.name


def test_every_alert_is_on_a_panel(make):
    titles = {link["title"] for panel in panels() for link in panel.content["links"]}
    assert {f"Runbook: {name}" for name in make["ALERTS"]} <= titles


def test_panels_are_described_and_fill_their_rows():
    width = {}
    for panel in panels():
        place = panel.content["gridPos"]
        row = panel.dashboard, place["y"]
        width[row] = width.get(row, 0) + place["w"]
        assert panel.content["description"], panel.name
    assert set(width.values()) == {24}


def test_links_of_panels_lead_to_dashboards_and_to_headings_of_runbooks():
    for url in {link["url"] for panel in panels() for link in panel.content["links"]}:
        if dashboard := re.match(r"/d/([\w-]+)\?", url):
            assert (FOLDER / f"{dashboard[1]}.json").exists(), url
            continue
        path, _, anchor = url.removeprefix("${repository}/").partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, url


@pytest.mark.slow
def test_every_panel_answers_for_a_system_under_load(tmp_path):
    empty = set()
    with monitored(tmp_path, seconds=SECONDS) as found:
        for panel in panels():
            for expression, _ in panel.queries:
                asked = substituted(expression, window="20s", rate_interval="10s")
                series = found.prometheus.query_range(asked, start=found.start, end=found.end)
                if all(math.isnan(float(value)) for each in series for _, value in each["values"]):
                    empty.add(panel.name)
        period = {"start": found.start, "end": found.end}
        exemplars = found.prometheus.ask("query_exemplars", query=f"{REQUESTS}_bucket", **period)
        labels = {tuple(each["labels"]) for series in exemplars for each in series["exemplars"]}
        assert labels == {("trace_id",)}
    assert not empty
