"""Measure Refold on this machine, beside what the hardware and the servers do alone in the same run.

A command of its own, never a test: `PYTHONPATH=tests python -m bench rebuild`, or append, live, latency, fanout,
stall, sdk, travel, read, history, memory, stores, telemetry, growth; `goals` runs all that have a goal.
Each measurement starts a system of its own in a temporary folder, unless it takes `--url`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.plot import check_drawable, draw
from bench.report import COLUMNS, Report
from bench.system import Options
from refold.cli.errors import exiting_clearly
from refold.cli.operate import DocumentBytesOption, DocumentsOption, Run, SecondsOption
from refold.cli.options import make_command
from refold.cli.output import console, json_line, print_table
from refold.telemetry.logging import configure

if TYPE_CHECKING:
    from bench.all_goals import Measurement

DocumentsKindOption = Annotated[
    Literal["random", "compressible"],
    typer.Option("--documents-kind", help="Texts of random hex, pglz's worst case, or of words."),
]
GroundOption = Annotated[
    bool, typer.Option("--ground/--no-ground", help="Also measure the hardware and the servers alone.")
]
StaleShareOption = Annotated[
    float,
    typer.Option("--stale-share", min=0, max=1, help="Share of the patches whose base is behind the head."),
]
GROWING = frozenset({"rebuild", "live", "travel"})


@dataclass(frozen=True, kw_only=True)
class Chosen(Run):
    """The options of every measurement: those of `refold bench`, and a picture."""

    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.svg",
            dir_okay=False,
            help="Also draw the figures (needs the extra `bench`).",
        ),
    ] = None


def rebuild(
    chosen: Chosen,
    events: Annotated[
        int, typer.Option(min=1, help="Events in the log, including each document's first one.")
    ] = 300_000,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "random",
    ground: GroundOption = True,
    stale_share: StaleShareOption = 0.0,
) -> None:
    """Replay of small events into an empty projection: events/s from the first read to the last commit."""
    from bench.rebuild import Plan, run

    plan = Plan(
        events=events,
        documents=documents,
        document_bytes=document_bytes,
        documents_kind=documents_kind,
        has_ground=ground,
        stale_share=stale_share,
    )
    _measure(run, plan, chosen)


def append(
    chosen: Chosen,
    seconds: SecondsOption = 3.0,
    documents_kind: DocumentsKindOption = "random",
) -> None:
    """Appends, acknowledged: one by one by 1, 8 and 64 writers, and in atomic batches of 100 and 1,000.

    --url is a NATS address, of a user that may open the log.
    """
    from bench.append import Plan, run

    _measure(run, Plan(seconds=seconds, documents_kind=documents_kind), chosen)


def live(
    chosen: Chosen,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of a round.")] = 20.0,
    rate: Annotated[
        float, typer.Option(min=0, help="Events published a second; 0: as fast as possible.")
    ] = 0.0,
    find: Annotated[
        bool,
        typer.Option("--find", help="Search for the highest rate with lag under 1 s, then measure at it."),
    ] = False,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "random",
    stale_share: StaleShareOption = 0.0,
) -> None:
    """Publisher, projector and both servers together: events/s folded and committed, and the lag."""
    from bench.live import Plan, run

    plan = Plan(
        rate=rate,
        seconds=seconds,
        documents=documents,
        document_bytes=document_bytes,
        finds_rate=find,
        documents_kind=documents_kind,
        stale_share=stale_share,
    )
    _measure(run, plan, chosen)


def latency(
    chosen: Chosen,
    rate: Annotated[
        float, typer.Option(min=1, help="Events due per second, independent of responses.")
    ] = 1_000.0,
    seconds: SecondsOption = 8.0,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "random",
) -> None:
    """From publish to outcome at a fixed rate, counted from the instant that was due: NATS and HTTP.

    --url is a gateway's address: it is measured over HTTP alone.
    """
    from bench.latency import Plan, run

    plan = Plan(
        rate=rate,
        seconds=seconds,
        documents=documents,
        document_bytes=document_bytes,
        documents_kind=documents_kind,
    )
    _measure(run, plan, chosen)


def travel(
    chosen: Chosen,
    sizes: Annotated[
        str,
        typer.Option(metavar="N,N,…", help="Sizes of the log at which it is read."),
    ] = "100000,1000000,5000000",
    reads: Annotated[int, typer.Option(min=1, help="Reads of each kind in a round.")] = 4_000,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "random",
    ground: GroundOption = True,
) -> None:
    """States at random versions and times of random documents, each checked, over HTTP and from the store.

    --url is a gateway's address: the events are appended there, to the namespace `bench`.
    """
    from bench.travel import Plan, run

    plan = Plan(
        sizes=_sizes(sizes),
        reads=reads,
        documents=documents,
        document_bytes=document_bytes,
        documents_kind=documents_kind,
        has_ground=ground,
    )
    _measure(run, plan, chosen)


def read(
    chosen: Chosen,
    seconds: SecondsOption = 4.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "random",
    ground: GroundOption = True,
) -> None:
    """Latest states, over HTTP by 1, 16 and 64 clients and by SQL.

    --url is a gateway's address: the documents are put there, into the namespace `bench`.
    """
    from bench.read import Plan, run

    plan = Plan(
        seconds=seconds,
        documents=documents,
        document_bytes=document_bytes,
        documents_kind=documents_kind,
        has_ground=ground,
    )
    _measure(run, plan, chosen)


def sdk(
    chosen: Chosen,
    seconds: SecondsOption = 4.0,
) -> None:
    """Through the Python client: 1, 8 and 64 writers that wait for the fold, bulks of 1,000, loads of a middle version.

    --url is a gateway's address.
    """
    from bench.sdk import Plan, run

    _measure(run, Plan(seconds=seconds), chosen)


def fanout(
    chosen: Chosen,
    of: Annotated[
        str, typer.Option(metavar="NAME,…", help="Some of wide, near, hot, gauges, peer.")
    ] = "wide,near,hot,gauges",
    subscribers: Annotated[int, typer.Option(min=2, help="Subscribers of `wide` and `peer`.")] = 10_000,
    changes: Annotated[int, typer.Option(min=1, help="Their changes, two a second.")] = 50,
    seconds: SecondsOption = 8.0,
) -> None:
    """Live streams: one change to 10,000 subscribers, the way to 100, a hot document, gauges, memory."""
    from bench.fanout import MEASUREMENTS, PEER, Plan, run

    plan = Plan(
        measurements=_names(of, (*MEASUREMENTS, PEER)),
        subscribers=subscribers,
        changes=changes,
        seconds=seconds,
    )
    _measure(run, plan, chosen)


def stall(
    chosen: Chosen,
    of: Annotated[
        str, typer.Option(metavar="NAME,…", help="Some of stopped, slow, connects, patterns, replays.")
    ] = "stopped,slow,connects,patterns,replays",
    seconds: SecondsOption = 8.0,
) -> None:
    """Live streams beside readers that stop or are slow, endless connects, wide patterns and replays."""
    from bench.stall import MEASUREMENTS, Plan, run

    _measure(run, Plan(measurements=_names(of, MEASUREMENTS), seconds=seconds), chosen)


def history(
    chosen: Chosen,
    path: Annotated[
        Path | None, typer.Option(help="What is imported; default: a history beside the checkout.")
    ] = None,
) -> None:
    """A real history imported: events/s, processor time, memory, and the storage that a change costs."""
    from bench.history import HISTORY, Plan, run

    _measure(run, Plan(path=str(path or HISTORY)), chosen)


def goals(
    chosen: Chosen,
    of: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Which measurements; default: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the JSON of each one.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(file_okay=False, exists=True, help="Such a folder of an earlier version.")
    ] = None,
    seconds: SecondsOption = 3.0,
) -> None:
    """Every figure that has a goal, as a Markdown table; about ten minutes.

    --json prints a line a report, --plot is not possible.
    """
    from bench.all_goals import measurements

    found = measurements(seconds)
    names = list(found) if of is None else of.split(",")
    if unknown := set(names) - set(found):
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--of")
    if chosen.plot is not None:
        raise typer.BadParameter("one measurement at a time is drawn", param_hint="--plot")
    earlier = [json.loads(path.read_text()) for path in sorted(before.glob("*.json"))] if before else []
    asyncio.run(_measure_goals({name: found[name] for name in names}, chosen, out, earlier))


async def _measure_goals(
    measurements: Mapping[str, Measurement], chosen: Chosen, out: Path | None, earlier: list[Any]
) -> None:
    from bench.all_goals import run
    from bench.peers.report import goals_table

    reports = []
    async for report in run(_options(chosen), measurements, out):
        reports.append(report.plain())
        if chosen.json:
            json_line(reports[-1])
    if not chosen.json:
        print(goals_table(reports, earlier))


def memory(
    chosen: Chosen,
    documents: DocumentsOption = 1_000_000,
    document_bytes: DocumentBytesOption = 512,
    cache_bytes_max: Annotated[
        int, typer.Option(min=1_048_576, help="The projector's setting of that name.")
    ] = 268_435_456,
) -> None:
    """A million documents: the projector's memory, the database, NATS and how long it takes to start again."""
    from bench.memory import Plan, run

    plan = Plan(documents=documents, document_bytes=document_bytes, cache_bytes_max=cache_bytes_max)
    _measure(run, plan, chosen)


def stores(
    chosen: Chosen,
    documents: DocumentsOption = 5_000,
    document_bytes: DocumentBytesOption = 2_048,
    documents_kind: DocumentsKindOption = "compressible",
) -> None:
    """Each store with its layers on and off, beside the bare databases; and what a cache of states saves."""
    from bench.stores import Plan, run

    plan = Plan(documents=documents, document_bytes=document_bytes, documents_kind=documents_kind)
    _measure(run, plan, chosen)


def telemetry(
    chosen: Chosen,
    of: Annotated[
        str, typer.Option(metavar="NAME,…", help="Some of collectors, everything, writes, profile.")
    ] = "collectors,everything,writes,profile",
    rate: Annotated[float, typer.Option(min=1, help="Events a second of `collectors`.")] = 5_000.0,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each of `collectors`.")] = 60.0,
    pair_seconds: Annotated[
        float, typer.Option(min=1, max=60, help="Duration of each side of the others.")
    ] = 10.0,
    traced_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events that are traced.")
    ] = 0.01,
) -> None:
    """What telemetry costs: collectors that work or do not, everything on and off, and a profile while it is made."""
    from bench.telemetry import MEASUREMENTS, Plan, run

    plan = Plan(
        measurements=_names(of, MEASUREMENTS),
        rate=rate,
        seconds=seconds,
        pair_seconds=pair_seconds,
        traced_share=traced_share,
    )
    _measure(run, plan, chosen)


def growth(
    chosen: Chosen,
    events: Annotated[int, typer.Option(min=1, help="Events in the log at first.")] = 100_000,
    documents: DocumentsOption = 3_000,
    of: Annotated[
        str, typer.Option(metavar="NAME,…", help="Which measurements are repeated.")
    ] = "rebuild,live,travel",
    seconds: Annotated[float, typer.Option(min=1, help="Duration of a round of `live`.")] = 10.0,
    rate: Annotated[float, typer.Option(min=0, help="Rate of `live`; 0: as fast as possible.")] = 0.0,
) -> None:
    """The slope: rebuild, live and travel at ten times the events and ten times the documents."""
    from bench.growth import Plan, run

    plan = Plan(
        events=events, documents=documents, seconds=seconds, rate=rate, measurements=_names(of, GROWING)
    )
    _measure(run, plan, chosen)


def _measure(run: Callable[..., Coroutine[Any, Any, Report]], plan: object, chosen: Chosen) -> None:
    if chosen.plot is not None:
        check_drawable(chosen.plot)
    report = asyncio.run(run(_options(chosen), plan))
    if chosen.json:
        json_line(report.plain())
    else:
        print_table(COLUMNS, report.rows())
    if chosen.plot is not None:
        draw(report, chosen.plot)


def _options(chosen: Chosen) -> Options:
    configure("error", service="bench")
    progress = console(is_error=True)
    return Options(
        rounds=chosen.rounds,
        durability=chosen.durability,
        url=chosen.url,
        say=lambda line: progress.print(line, style="dim", markup=False),
    )


def _sizes(text: str) -> tuple[int, ...]:
    """Read sizes, each larger than the one before."""
    try:
        sizes = tuple(int(part.replace("_", "")) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise typer.BadParameter(
            "must be whole numbers that grow, such as 100000,1000000", param_hint="--sizes"
        )
    return sizes


def _names(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Read names of measurements, of those that are known."""
    names = tuple(text.split(","))
    if not set(names) <= set(known):
        raise typer.BadParameter(f"must be some of {', '.join(sorted(known))}", param_hint="--of")
    return names


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for _command in (
    rebuild,
    append,
    live,
    latency,
    fanout,
    stall,
    sdk,
    travel,
    read,
    history,
    memory,
    stores,
    telemetry,
    growth,
    goals,
):
    app.command()(make_command(_command))

if __name__ == "__main__":
    with exiting_clearly():
        app()
