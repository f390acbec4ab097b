"""The report on peers: statistics of several rounds, without lost or mixed-up figures."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.calibration import UNIT_NAME
from bench.peers import report

RESULTS = Path(report.__file__).parents[1] / "RESULTS.md"

PEERS = [
    SimpleNamespace(
        name=name, title=name.title(), durability=durability, server=server, read="by page", written=""
    )
    for name, durability, server in [
        ("ours", "synced", "refold"),
        ("other", "NOT durable", "nats"),
        ("unmeasured", "synced", "postgres"),
    ]
]
WORK = {"events": 10_000, "documents": 100, "loads": 500, "seconds": 8.0}


def a_round(peer, syncs=1_000.0, version="1.0", **figures):
    return {
        "peer": peer,
        "version": version,
        "date": "2026-01-02",
        "work": WORK,
        "syncs_per_second": syncs,
        "figures": figures,
    }


def test_a_spread_does_not_depend_on_the_order_of_rounds():
    assert report.spread_of([3.0, 1.0, 7.0]) == (1.0, 3.0, 7.0)
    assert report.spread_of([4.0, 2.0]) == (2.0, 3.0, 4.0)
    assert report.spread_of([5.0]) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_345.6, "12,346"), (100, "100"), (99.94, "99.9"), (10, "10.0"), (1.234, "1.23"), (0.5, "0.50")],
)
def test_a_number_is_rounded_to_significant_digits(value, text):
    assert report.shown(value) == text


def test_rounds_are_grouped_by_peer_in_order_and_peers_without_rounds_are_omitted():
    rounds = [a_round("other", append_1=5.0), a_round("ours", append_1=1.0), a_round("ours", append_1=3.0)]
    ours, other = report.rows(PEERS, rounds)
    assert (ours.title, ours.samples["append_1"]) == ("Ours", [1.0, 3.0])
    assert (other.title, other.samples["append_1"]) == ("Other", [5.0])
    assert (ours.is_ours, other.is_ours) == (True, False)
    assert (ours.is_durable, other.is_durable) == (True, False)


def test_rounds_of_several_versions_name_each_version():
    rounds = [a_round("ours", version=version, append_1=1.0) for version in ("1.1", "1.0", "1.1")]
    assert report.rows(PEERS, rounds)[0].version == "1.0, 1.1"


def test_memory_is_shown_in_mebibytes():
    (row,) = report.rows(PEERS, [a_round("ours", memory=3 * 2**20)])
    assert row.spread("memory") == (3.0, 3.0, 3.0)


def test_a_table_shows_every_figure_with_its_spread_and_a_dash_for_a_missing_one():
    rounds = [a_round("ours", append_1=value) for value in (200.0, 100.0, 400.0)]
    found = report.rows(PEERS, [*rounds, a_round("other", append_8=1_000.0)])
    lines = report.figures_table(found, report.APPEND[:2]).splitlines()
    assert lines[0] == "| peer | version | durability | 1 writer, events/s | 8 writers, events/s |"
    assert lines[2] == "| Ours | 1.0 | synced | 200 (100 to 400) | - |"
    assert lines[3] == "| Other | 1.0 | NOT durable | - | 1,000 (1,000 to 1,000) |"


def test_a_table_omits_peers_without_its_figures():
    found = report.rows(PEERS, [a_round("ours", append_1=1.0), a_round("other", read_all=2.0)])
    assert "Other" not in report.figures_table(found, report.APPEND)
    assert "Ours" not in report.replay_table(found)
    assert "| 2.00 (2.00 to 2.00) | by page | - | - |" in report.replay_table(found)


def test_a_pipe_in_a_cell_is_escaped():
    assert report.table(["a"], [["x|y"]]).splitlines()[2] == r"| x\|y |"


def test_benchmark_figures_are_shown_with_goal_and_baseline():
    ground = {"name": "COPY", "unit": "rows/s", "samples": [200_000.0], "is_ground": True}
    rebuild = {"name": "rebuild", "unit": "events/s", "samples": [90.0, 120_000.0, 110_000.0]}
    rebuild |= {
        "goal": {"at_least": 100_000.0, "is_met": True},
        "ground": "COPY",
        "durability": "fsync",
        "in_units": {"median": 3.5, "samples": [3.5]},
    }
    travel = {
        "name": "version, p99",
        "unit": "ms",
        "samples": [1.0],
        "goal": {"at_most": 5.0, "is_each": True, "is_met": True},
    }
    travel |= {"axis": "events", "at": 100_000}
    unmeant = {"name": "events", "unit": "events", "samples": [1.0]}
    before = [{"figures": [{**rebuild, "samples": [40.0, 50.0, 60.0]}]}]
    unit = {"name": UNIT_NAME, "unit": "µs", "samples": [3.0, 2.5]}
    lines = report.goals_table([{"figures": [unit, rebuild, ground, unmeant]}, [travel]], before).splitlines()
    assert lines[2:] == [
        "| rebuild | events/s | ≥ 100,000 | 50.0 | 90.0 | 110,000 | 120,000 | 3.50 | COPY: 200,000 rows/s | fsync |",
        "| version, p99, 100,000 events | ms | each ≤ 5.00 | - | 1.00 | 1.00 | 1.00 | - | - | - |",
        "",
        "One unit is the calibration unit: 2.75 (2.50 to 3.00) µs.",
    ]


def test_reports_with_a_label_in_common_are_not_mixed_into_one_table():
    lag = {"name": "live, lag max", "unit": "s", "samples": [1.0], "goal": {"at_most": 1.0, "is_met": True}}
    with pytest.raises(ValueError, match="live, lag max"):
        report.goals_table([{"figures": [lag]}, {"figures": [lag]}])


def test_no_table_of_the_results_has_two_rows_with_one_label():
    for table in RESULTS.read_text(encoding="utf-8").split("\n\n"):
        labels = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
        assert len(labels) == len(set(labels))


def test_the_report_names_machine_disk_workload_and_rounds():
    rounds = [a_round("ours", syncs=syncs, append_1=1.0) for syncs in (900.0, 1_100.0)]
    rounds.append(a_round("other", append_1=1.0))
    page = report.markdown(report.rows(PEERS, rounds), rounds, {"kernel": "6"}, "", ["peers-append.svg"])
    assert "- kernel: 6\n" in page
    assert "- disk: 1,000 (900 to 1,100) fdatasync/s of 8 KiB\n" in page
    assert (
        "- work: 10,000 events each way, singly over 100 documents, for at most 8 s; 500 loads of each kind\n"
        in page
    )
    assert "- rounds: 1 to 2\n" in page
    flags = "--events 10000 --documents 100 --loads 500 --seconds 8"
    assert f"- again: `python tests/bench/peers/run.py {flags}`\n" in page
    assert page.count("![") == 1
    assert "goals" not in page


def test_every_figure_that_is_plotted_has_a_column_in_a_table():
    columns = {*report.APPEND, *report.LOAD, *report.REPLAY, report.MEMORY}
    assert {panel for group in report.panels().values() for panel in group} <= columns
