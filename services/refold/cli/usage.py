"""Commands about usage: `refold usage NAMESPACE` prints counts, `refold usage serve` runs the service.

Loaded by `refold.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from refold.cli.options import DataOption, Output, make_command, read_time
from refold.cli.output import json_line, note, print_table, working
from refold.cli.serve import SERVERS, flags

if TYPE_CHECKING:
    from rich.progress import Progress

SHOW: Final = "show"
GROUPS_SHOWN: Final = 50
"""Rows of the table by default."""

Flags = flags(*SERVERS, "usage_totals", "data", "probe", "http_hosts", "cors_origins", "log_level")


class UsageGroup(TyperGroup):
    """A group whose command is `show` where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `show` before what is neither a command nor a request for help."""
        is_show = not args or args[0] not in {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, [SHOW, *args] if is_show else args)


def show(
    output: Output,
    namespace: Annotated[
        str | None, typer.Argument(metavar="NAMESPACE", help="By default all, one in a row.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="GROUP", help="hour, actor, type, section or session; by default hour."),
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", parser=read_time, metavar="TIME", help="The first hour.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", parser=read_time, metavar="TIME", help="The end of the last hour.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Print at most this many.")
    ] = GROUPS_SHOWN,
    data: DataOption = None,
) -> None:
    """Print what was written in a namespace: events by hour, actor, type, section, or sessions by actor.

    The counts are exact. If no usage service runs, the events since the last time are counted first. They are of whole
    hours: --from and --to are widened. A namespace that is called like a command is printed by `refold usage show`.
    """
    from refold.wiring.service import run_folding
    from refold.wiring.settings import load
    from refold.wiring.usage import read_usage

    question = {"namespace": namespace, "by": by, "begin": begin, "end": end}
    with working() as progress:
        found = run_folding(read_usage(load(data=data), question, _advance(progress)))
    if output.is_json:
        json_line(found)
    else:
        _print(found, limit)


def serve(settings: Flags) -> None:  # type: ignore[valid-type]
    """Run the usage service: it counts what is folded, and answers GET /usage/{namespace}?from=&to=&by=.

    The counts are in `usage.sqlite` in the data folder. `refold up --usage` runs it as a part of the system.
    """
    from refold.wiring.service import start
    from refold.wiring.usage import run

    start("usage", run, **asdict(settings))


def _advance(progress: Progress) -> Callable[[str, int, int], None]:
    task = progress.add_task("", total=None)

    def advanced(what: str, done: int, total: int) -> None:
        progress.update(task, completed=done, total=total, description=f"{done:,} of {total:,} {what}")

    return advanced


def _print(found: dict[str, Any], limit: int) -> None:
    rows = found["rows"][:limit]
    by = "actor" if found["by"] == "session" else found["by"]
    columns = [by, *(_SESSIONS if found["by"] == "session" else _COUNTS)]
    cells = [[_cell(name, row) for name in columns] for row in rows]
    total = ["total", *(found["total"].get(name, "") for name in columns[1:])]
    print_table([_HEADS.get(name, name) for name in columns], [*cells, total])
    if len(rows) < found["groups"]:
        note(f"{len(rows)} of {found['groups']} rows; the total is of all")


_COUNTS: Final = (
    "events",
    "effective",
    "merged",
    "rejected",
    "duplicate",
    "conflicts",
    "operations",
    "bytes",
    "documents",
    "actors",
)
_SESSIONS: Final = (
    "sessions",
    "seconds",
    "longest_seconds",
    "events",
    "effective",
    "rejected",
    "conflicts",
    "operations",
    "effective_per_minute",
)
_HEADS: Final = {"longest_seconds": "longest", "effective_per_minute": "per minute"}


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name == "section" and value == "":
        return "(whole document)"
    if name == "namespace" and value == "":
        return "(no document)"
    if value is None:
        return "" if name == "effective_per_minute" else "(none)"
    if name == "hour":
        return f"{value[:13]}:00Z"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


usage = typer.Typer(name="usage", cls=UsageGroup)
ABOUT: Final = """Print what was written in a namespace, counted exactly.

`refold usage NAMESPACE` is `refold usage show NAMESPACE`."""
usage.callback(help=ABOUT)(lambda: None)
usage.command(SHOW)(make_command(show))
usage.command("serve")(make_command(serve))
