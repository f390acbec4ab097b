"""Commands that measure: `refold bench …`. Loaded by `refold.cli.app`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refold.cli.options import JsonOption

if TYPE_CHECKING:
    from refold.bench.figures import Figures
    from refold.bench.measure import Options, Target

_say = partial(typer.echo, err=True)

RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="How often everything is measured.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0.1, help="Duration of each measurement in a round.")
]
DocumentsOption = Annotated[int, typer.Option("--documents", min=1, help="Number of documents.")]
DocumentBytesOption = Annotated[int, typer.Option("--document-bytes", min=200, help="Size of a document.")]
DurabilityOption = Annotated[
    Literal["fsync", "os"], typer.Option("--durability", help="Durability of a temporary system.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="A running system; default: a temporary one.")
]

group = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Load a temporary or a running system and print what it did: minimum, median and maximum of the rounds.\n\n"
    "Events go to the namespace `bench`, so do not use a system that matters.",
)


@group.command()
def append(
    seconds: SecondsOption = 3.0,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Append to the log: single events by 1, 8 and 64 writers, and atomic batches of 100 and 1,000.

    --url is a NATS address with a user that may append and read the stream's state.
    """
    from refold.bench.measure import Options, append

    _run(append, Options(rounds, seconds, say=_say), durability, url, is_json)


@group.command()
def live(
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0: as many as possible.")] = 0.0,
    seconds: SecondsOption = 10.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Upload and fold events, with the lag of the fold."""
    from refold.bench.measure import Options, live

    options = Options(rounds, seconds, documents, document_bytes, _say)
    _run(partial(live, rate=rate), options, durability, url, is_json)


@group.command()
def latency(
    rate: Annotated[float, typer.Option(min=1, help="Patches that are due a second.")] = 500.0,
    seconds: SecondsOption = 8.0,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Send patches at a fixed rate: from the instant that each was due to its outcome."""
    from refold.bench.measure import Options, latency

    options = Options(rounds, seconds, documents, document_bytes, _say)
    _run(partial(latency, rate=rate), options, durability, url, is_json)


@group.command()
def read(
    seconds: SecondsOption = 4.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Read latest states with 1, 16 and 64 requests in flight."""
    from refold.bench.measure import Options, read

    options = Options(rounds, seconds, documents, document_bytes, _say)
    _run(read, options, durability, url, is_json)


@group.command()
def travel(
    events: Annotated[int, typer.Option(min=1, help="Events over all documents.")] = 50_000,
    reads: Annotated[int, typer.Option(min=1, help="Reads of each kind in a round.")] = 2_000,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Read random versions and times of random documents, and check each state."""
    from refold.bench.measure import Options, travel

    options = Options(rounds, 0.0, documents, document_bytes, _say)
    _run(partial(travel, events=events, reads=reads), options, durability, url, is_json)


def _run(
    measure: Callable[[Target, Options, Figures], Coroutine[Any, Any, None]],
    options: Options,
    durability: Literal["fsync", "os"],
    url: str | None,
    is_json: bool,
) -> None:
    import asyncio

    from refold.bench.figures import COLUMNS, Figures
    from refold.bench.measure import Target, temporary_system
    from refold.cli.output import json_line, print_table
    from refold.telemetry.logging import configure

    configure("error", service="bench")
    figures = Figures()

    async def run() -> None:
        if url is not None:
            await measure(Target(http=url, nats=url), options, figures)
            return
        async with temporary_system(durability) as target:
            await measure(target, options, figures)

    asyncio.run(run())
    if is_json:
        json_line(figures.plain(options.numbers() | {"durability": durability}))
    else:
        print_table(COLUMNS, figures.rows())


COMMANDS = {"bench": group}
