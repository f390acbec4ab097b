"""Rounds in, tables out: no input or output of its own, so that it can be tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple, Protocol

ABSENT: Final = "-"
UNIT: Final = "calibration unit"
"""The beginning of the figure's name in the reports of `python -m bench`."""


class Panel(NamedTuple):
    """A column: the figure as the programs name it, its heading, its unit."""

    figure: str
    title: str
    unit: str


APPEND: Final = (
    Panel("append_1", "1 writer", "events/s"),
    Panel("append_8", "8 writers", "events/s"),
    Panel("append_64", "64 writers", "events/s"),
    Panel("batch_100", "batches of 100", "events/s"),
    Panel("batch_1000", "batches of 1,000", "events/s"),
)
LOAD: Final = (
    Panel("load_latest", "latest state", "loads/s"),
    Panel("load_latest_p50", "latest, p50", "ms"),
    Panel("load_latest_p99", "latest, p99", "ms"),
    Panel("load_middle", "middle version", "loads/s"),
    Panel("load_middle_p50", "middle, p50", "ms"),
    Panel("load_middle_p99", "middle, p99", "ms"),
)
REPLAY: Final = (
    Panel("read_all", "read and folded in memory", "events/s"),
    Panel("rebuild", "read model written", "events/s"),
)
MEMORY: Final = Panel("memory", "client's peak memory", "MiB")
MEBIBYTE: Final = 2**20


class Described(Protocol):
    """The static description of a peer: see `registry.Peer`."""

    name: str
    title: str
    durability: str
    server: Any
    read: str
    written: str


class Spread(NamedTuple):
    """The displayed statistics of a figure's samples."""

    least: float
    median: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One peer with all its rounds."""

    title: str
    version: str
    durability: str
    is_ours: bool
    read: str
    written: str
    samples: Mapping[str, Sequence[float]]

    @property
    def is_durable(self) -> bool:
        """Return whether acknowledged writes survive power loss."""
        return not self.durability.startswith("NOT")

    def spread(self, figure: str) -> Spread | None:
        """Return minimum, median and maximum; None for what it does not do."""
        return spread_of(self.samples[figure]) if figure in self.samples else None


def panels() -> dict[str, Sequence[Panel]]:
    """Return the groups that are plotted."""
    return {"append": APPEND, "load": (LOAD[1], LOAD[2], LOAD[4], LOAD[5]), "replay": REPLAY}


def rows(peers: Iterable[Described], rounds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Group the rounds by peer, in the peers' order; omit peers without a round."""
    found = []
    for peer in peers:
        own = [each for each in rounds if each["peer"] == peer.name]
        if own:
            found.append(_row(peer, own))
    return found


def spread_of(samples: Sequence[float]) -> Spread:
    """Return minimum, median and maximum."""
    return Spread(min(samples), median(samples), max(samples))


def shown(value: float) -> str:
    """Write a number with three digits that matter, whole from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(spread: Spread | None) -> str:
    """Write `median (min to max)`."""
    if spread is None:
        return ABSENT
    return f"{shown(spread.median)} ({shown(spread.least)} to {shown(spread.most)})"


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; a bar in a cell stays a bar."""
    written = [headings, ["---"] * len(headings), *lines]
    return "\n".join(
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in written
    )


def figures_table(found: Sequence[Row], columns: Sequence[Panel]) -> str:
    """Write a table of figures, leaving out peers that have none of them."""
    headings = ["peer", "version", "durability", *(f"{column.title}, {column.unit}" for column in columns)]
    lines = [
        [row.title, row.version, row.durability, *(cell(row.spread(column.figure)) for column in columns)]
        for row in found
        if any(column.figure in row.samples for column in columns)
    ]
    return table(headings, lines)


def replay_table(found: Sequence[Row]) -> str:
    """Write the replay figures with what was done for them."""
    headings = ["peer", "version", "durability"]
    headings += [
        "read and folded in memory, events/s",
        "how",
        "read model written, events/s",
        "what is written",
    ]
    read, written = (panel.figure for panel in REPLAY)
    lines = [
        [
            *(row.title, row.version, row.durability),
            *(cell(row.spread(read)), row.read or ABSENT, cell(row.spread(written)), row.written or ABSENT),
        ]
        for row in found
        if read in row.samples or written in row.samples
    ]
    return table(headings, lines)


def goals_table(reports: Sequence[Any], before: Iterable[Any] = ()) -> str:
    """Write the figures of `python -m bench … --json` that have a goal, with what bounds them and earlier figures.

    A row is a goal with its figure's processor time in calibration units, if it is one; the unit follows the table.

    Raises `ValueError` if two figures have one label: such reports do not belong in one table.
    """
    headings = [
        "figure",
        "unit",
        "goal",
        "before",
        "min",
        "median",
        "max",
        "in units",
        "ground",
        "durability",
    ]
    earlier = {_named(figure): figure for report in before for figure in _figures(report)}
    lines: dict[str, list[str]] = {}
    for report in reports:
        grounds = {_named(figure): figure for figure in _figures(report)}
        for figure in _figures(report):
            label = _named(figure)
            if figure.get("goal") and label in lines:
                raise ValueError(f"two reports have a figure {label!r}")
            if figure.get("goal"):
                lines[label] = _goal_line(figure, grounds, earlier.get(label))
    return "\n\n".join([table(headings, lines.values()), *_unit_said(reports)])


def _unit_said(reports: Iterable[Any]) -> list[str]:
    """Write the calibration unit of all reports, if they have one."""
    found = [
        sample
        for report in reports
        for figure in _figures(report)
        if figure["name"].startswith(UNIT)
        for sample in figure["samples"]
    ]
    return [f"One unit is the {UNIT}: {cell(spread_of(found))} µs."] if found else []


def _figures(report: Any) -> Any:
    return report["figures"] if isinstance(report, Mapping) else report


def markdown(
    found: Sequence[Row],
    rounds: Sequence[Mapping[str, Any]],
    machine: Mapping[str, str],
    goals: str,
    drawn: Sequence[str],
) -> str:
    """Write the whole page; `goals` is the table of goals, if there is one."""
    parts = [INTRODUCTION, _circumstances(rounds, machine)]
    if goals:
        parts += ["## Refold beside its goals", goals]
    parts += ["## Append", figures_table(found, APPEND), *_images(drawn, "append")]
    parts += ["## Load", figures_table(found, LOAD), *_images(drawn, "load")]
    parts += ["## Replay", replay_table(found), *_images(drawn, "replay")]
    parts += ["## Memory", figures_table(found, [MEMORY])]
    return "\n\n".join(parts) + "\n"


INTRODUCTION: Final = """# Peers and Refold: the same work in one run

Written by `python tests/bench/peers/run.py`; figures are median (minimum to maximum) of rounds, each on a
fresh server, one peer at a time. What each peer does and does not do, for a fair reading:
[peers/README.md](peers/README.md)."""


def _row(peer: Described, own: Sequence[Mapping[str, Any]]) -> Row:
    samples: dict[str, list[float]] = {}
    for each in own:
        for figure, value in each["figures"].items():
            samples.setdefault(figure, []).append(value / MEBIBYTE if figure == MEMORY.figure else value)
    return Row(
        title=peer.title,
        version=", ".join(sorted({each["version"] for each in own})),
        durability=peer.durability,
        is_ours=peer.server == "refold",
        read=peer.read,
        written=peer.written,
        samples=samples,
    )


def _circumstances(rounds: Sequence[Mapping[str, Any]], machine: Mapping[str, str]) -> str:
    said = dict(machine)
    said["disk"] = f"{cell(spread_of([each['syncs_per_second'] for each in rounds]))} fdatasync/s of 8 KiB"
    said["work"] = "; ".join(sorted({_work_said(each["work"]) for each in rounds}))
    dates = sorted({each["date"] for each in rounds})
    said["measured"] = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    counts = sorted({sum(other["peer"] == each["peer"] for other in rounds) for each in rounds})
    said["rounds"] = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    said["again"] = " and ".join(sorted({_command(each["work"]) for each in rounds}))
    return "\n".join(f"- {name}: {value}" for name, value in said.items())


def _command(work: Mapping[str, float]) -> str:
    flags = " ".join(f"--{name} {value:g}" for name, value in work.items())
    return f"`python tests/bench/peers/run.py {flags}`"


def _work_said(work: Mapping[str, int]) -> str:
    events, documents, loads, seconds = (
        f"{work[name]:,.0f}" for name in ("events", "documents", "loads", "seconds")
    )
    singly = f"singly over {documents} documents, for at most {seconds} s"
    return f"{events} events each way, {singly}; {loads} loads of each kind"


def _images(drawn: Sequence[str], name: str) -> list[str]:
    return [f"![{name}]({file})" for file in drawn if name in file]


def _goal_line(
    figure: Mapping[str, Any], grounds: Mapping[str, Mapping[str, Any]], earlier: Mapping[str, Any] | None
) -> list[str]:
    spread = spread_of(figure["samples"])
    ground = figure.get("ground")
    found = grounds.get(_named({**figure, "name": ground})) or grounds.get(str(ground))
    if found:
        ground = f"{ground}: {shown(spread_of(found['samples']).median)} {found['unit']}"
    return [
        *(_named(figure), str(figure["unit"]), _goal_said(figure.get("goal"))),
        shown(spread_of(earlier["samples"]).median) if earlier else ABSENT,
        *(shown(spread.least), shown(spread.median), shown(spread.most)),
        shown(figure["in_units"]["median"]) if figure.get("in_units") else ABSENT,
        *(_said(ground), _said(figure.get("durability"))),
    ]


def _named(figure: Mapping[str, Any]) -> str:
    """Name a figure, with the size at which it was measured."""
    at = f", {figure['at']:,} {figure['axis']}" if figure.get("axis") else ""
    return f"{figure['name']}{at}"


def _goal_said(goal: Any) -> str:
    if not isinstance(goal, Mapping):
        return _said(goal)
    bound = "at_most" if "at_most" in goal else "at_least"
    return (
        f"{'each ' if goal.get('is_each') else ''}{'≤' if bound == 'at_most' else '≥'} {shown(goal[bound])}"
    )


def _said(value: Any) -> str:
    if value is None:
        return ABSENT
    return shown(value) if isinstance(value, int | float) else str(value)
