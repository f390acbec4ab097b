"""Repeat rebuild, live and travel with ten times the log, then with ten times the documents.

A slope is the figure at ten times the size over the figure at the size: 1 is flat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from bench import live, rebuild, travel
from bench.report import NO_DISK, Figure, Report
from bench.system import Options, refuse_url
from refold.bench import machine

EVENTS: Final = "events in the log"
DOCUMENTS: Final = "documents"
TIMES: Final = 10
SHOWN: Final = frozenset(
    {
        "rebuild",
        "rebuild, CPU of all processes",
        "CPU of all but the client",
        "folded and committed",
        "lag p99",
        "version over HTTP, 1 in flight, p99",
        "version over HTTP, 8 in flight",
        "version over HTTP, 8 in flight, CPU of all but the client",
        "time over HTTP, 1 in flight, p99",
        "version straight from the store, p99",
    }
)
"""The figures that are compared; of `live`, without its rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The initial size, and which measurements."""

    events: int = 100_000
    documents: int = 3_000
    seconds: float = 10.0
    rate: float = 0.0
    measurements: tuple[str, ...] = ("rebuild", "live", "travel")


async def run(options: Options, plan: Plan) -> Report:
    """Measure at the initial size, with ten times the events, then also with ten times the documents."""
    refuse_url(options, "it repeats measurements that need a system of their own")
    found: list[Figure] = []
    for name in plan.measurements:
        first = await _measure(options, plan, name, plan.events, plan.documents)
        longer = await _measure(options, plan, name, plan.events * TIMES, plan.documents)
        wider = await _measure(options, plan, name, plan.events * TIMES, plan.documents * TIMES)
        found += _points(first, EVENTS, plan.events) + _points(longer, EVENTS, plan.events * TIMES)
        found += _points(longer, DOCUMENTS, plan.documents) + _points(
            wider, DOCUMENTS, plan.documents * TIMES
        )
    return Report(
        command="growth",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=(*found, *slopes(found)),
    )


def slopes(figures: Iterable[Figure]) -> list[Figure]:
    """Return the ratio of the last to the first of every figure taken at several sizes."""
    points: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        points.setdefault((figure.name, figure.axis), []).append(figure)
    return [
        Figure(
            name=f"{name}: at {TIMES} times the {axis}",
            unit="times",
            samples=(last.median / first.median if first.median else float(last.median == 0.0),),
            durability=NO_DISK,
        )
        for (name, axis), (first, *_, last) in points.items()
    ]


async def _measure(options: Options, plan: Plan, name: str, events: int, documents: int) -> Report:
    options.say(f"{name}: {events:,} events, {documents:,} documents")
    if name == "rebuild":
        return await rebuild.run(options, rebuild.Plan(events=events, documents=documents, has_ground=False))
    if name == "live":
        given = live.Plan(rate=plan.rate, seconds=plan.seconds, documents=documents, prefilled=events)
        return await live.run(options, given)
    return await travel.run(options, travel.Plan(sizes=(events,), documents=documents, has_ground=False))


def _points(report: Report, axis: str, at: int) -> list[Figure]:
    return [replace(figure, axis=axis, at=at, goal=None) for figure in report.figures if _is_shown(figure)]


def _is_shown(figure: Figure) -> bool:
    return figure.name in SHOWN or (
        figure.name.startswith("live ") and figure.name.partition(", ")[2] in SHOWN
    )
