"""Commands that measure: `refold bench …`. Registered by `refold.cli.app`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refold.cli.target import JsonOption

if TYPE_CHECKING:
    from refold.bench.report import Report
    from refold.bench.system import Options

PANEL = "Operate"

RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Times that everything is measured.")]
DurabilityOption = Annotated[
    Literal["fsync", "os"],
    typer.Option(
        "--durability",
        help="How the log is kept: `fsync` survives power loss, `os` may lose the last moments.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="A running system to measure, where the measurement allows it."
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.svg", dir_okay=False, help="Draw the figures too (needs the extra `bench`)."
    ),
]

group = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure this machine with this system, and the ground that it stands on, in the same run.\n\n"
    "Each measurement starts a system of its own in a temporary folder and ends it again.",
)


@group.command()
def rebuild(
    events: Annotated[
        int, typer.Option(min=1, help="Events in the log, each document's first one included.")
    ] = 300_000,
    documents: Annotated[int, typer.Option(min=1, help="Documents that they fall on.")] = 3_000,
    document_bytes: Annotated[int, typer.Option(min=200, help="Size of a document.")] = 2_048,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Replay of small events into an empty projection: events/s from the first read to the last commit."""
    from refold.bench.rebuild import Plan, run

    plan = Plan(events=events, documents=documents, document_bytes=document_bytes)
    _measure(lambda options: run(options, plan), rounds, durability, url, is_json, plot)


@group.command()
def append(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each way is measured in a round.")] = 3.0,
    rounds: RoundsOption = 3,
    durability: DurabilityOption = "fsync",
    url: UrlOption = None,
    is_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Appends, acknowledged: one by one by 1, 8 and 64 writers, and in atomic batches of 100 and 1,000.

    --url is a NATS address, of a user that may open the log.
    """
    from refold.bench.append import Plan, run

    _measure(lambda options: run(options, Plan(seconds=seconds)), rounds, durability, url, is_json, plot)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, rich_help_panel=PANEL)


def _measure(
    run: Callable[[Options], Coroutine[Any, Any, Report]],
    rounds: int,
    durability: Literal["fsync", "os"],
    url: str | None,
    is_json: bool,
    plot: Path | None,
) -> None:
    import asyncio

    from refold.bench.report import COLUMNS
    from refold.bench.system import Options
    from refold.cli.show import console, json_line, print_table

    if plot is not None:
        from refold.bench.plot import check_drawable

        check_drawable(plot)
    told = console(is_error=True)
    options = Options(
        rounds=rounds,
        durability=durability,
        url=url,
        say=lambda line: told.print(line, style="dim", markup=False),
    )
    report = asyncio.run(run(options))
    if is_json:
        json_line(report.plain())
    else:
        print_table(COLUMNS, report.rows())
    if plot is not None:
        from refold.bench.plot import draw

        draw(report, plot)
