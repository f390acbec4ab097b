"""Commands that measure: `refold bench …`. Loaded by `refold.cli`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import typer

from refold.cli.options import JsonOption, make_command
from refold.cli.output import json_line, print_table

DocumentsOption = Annotated[int, typer.Option("--documents", min=1, help="Number of documents.")]
DocumentBytesOption = Annotated[int, typer.Option("--document-bytes", min=200, help="Size of a document.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0.1, help="Duration of each measurement in a round.")
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options of every measurement."""

    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything is measured.")] = 3
    durability: Annotated[
        Literal["fsync", "os"], typer.Option("--durability", help="Durability of a temporary system.")
    ] = "fsync"
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="A running system; default: a temporary one.")
    ] = None
    json: JsonOption = False


async def append(run: Run, seconds: SecondsOption = 3.0) -> None:
    """Append to the log: single events by 1, 8 and 64 writers, and atomic batches of 100 and 1,000.

    --url is a NATS address with a user that may append and read the stream's state.
    """
    from refold.bench.measure import append

    await _run(append, run, seconds=seconds)


async def live(
    run: Run,
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0: as many as possible.")] = 0.0,
    seconds: SecondsOption = 10.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Upload and fold events, with the lag of the fold."""
    from refold.bench.measure import live

    measure = partial(live, rate=rate)
    await _run(measure, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def latency(
    run: Run,
    rate: Annotated[float, typer.Option(min=1, help="Patches that are due a second.")] = 500.0,
    seconds: SecondsOption = 8.0,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Send patches at a fixed rate: from the instant that each was due to its outcome."""
    from refold.bench.measure import latency

    measure = partial(latency, rate=rate)
    await _run(measure, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def read(
    run: Run,
    seconds: SecondsOption = 4.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Read latest states with 1, 16 and 64 requests in flight."""
    from refold.bench.measure import read

    await _run(read, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def travel(
    run: Run,
    events: Annotated[int, typer.Option(min=1, help="Events over all documents.")] = 50_000,
    reads: Annotated[int, typer.Option(min=1, help="Reads of each kind in a round.")] = 2_000,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Read random versions and times of random documents, and check each state."""
    from refold.bench.measure import travel

    measure = partial(travel, events=events, reads=reads)
    await _run(measure, run, seconds=0.0, documents=documents, document_bytes=document_bytes)


async def _run(measure: Callable[..., Coroutine[Any, Any, None]], run: Run, **amounts: Any) -> None:
    from refold.bench import COLUMNS, Figures
    from refold.bench.measure import Options, Target, target_of
    from refold.telemetry.logging import configure
    from refold.wiring.system import temporary_system

    configure("error", service="bench")
    figures = Figures()
    options = Options(rounds=run.rounds, say=partial(typer.echo, err=True), **amounts)
    if run.url is not None:
        await measure(Target(http=run.url, nats=run.url), options, figures)
    else:
        flags = {"durability": run.durability, "log_level": "warning"}
        async with temporary_system("bench", lambda _: None, **flags) as system:
            await measure(target_of(system), options, figures)
    if run.json:
        json_line(figures.plain(options.numbers() | {"durability": run.durability}))
    else:
        print_table(COLUMNS, figures.rows())


bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Load a temporary or a running system and print what it did: minimum, median and maximum of the rounds.\n\n"
    "Events go to the namespace `bench`, so do not use a system that matters.",
)
for _command in (append, live, latency, read, travel):
    bench.command(_command.__name__)(make_command(_command))
