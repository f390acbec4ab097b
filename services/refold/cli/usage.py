"""Commands about usage: `refold usage NAMESPACE` prints counts, `refold usage serve` runs the service.

Loaded by `refold.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from refold.cli.options import DataOption, Output, add_command, read_time
from refold.cli.output import json_line, note, print_table, working
from refold.cli.serve import SERVERS, flags
from refold.core.errors import Refused

if TYPE_CHECKING:
    from rich.progress import Progress

SHOW: Final = "show"
GROUPS_SHOWN: Final = 50
"""Rows of the table by default."""

NAME_CHARS_MAX: Final = 60
"""Characters of a name in the table."""

Flags = flags(*SERVERS, "usage_totals", "data", "probe", "http_hosts", "cors_origins", "log_level")


class UsageGroup(TyperGroup):
    """A group whose command is `show` where none is named; its help is that of `show`, which names the others."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `show` before what is no command."""
        is_named = args and args[0] in self.commands
        return super().parse_args(ctx, args if is_named else [SHOW, *args])


def show(
    output: Output,
    namespace: Annotated[str | None, typer.Argument(metavar="NAMESPACE", help="By default all.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="GROUP",
            help="namespace, hour, actor, type, section or session; by default hour, and namespace without NAMESPACE.",
        ),
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

    The counts are exact; --from and --to are widened to whole hours. If no usage service runs, the events since the
    last time are counted first. `refold usage serve` runs the service. `refold usage show NAMESPACE` also takes a
    namespace named `show` or `serve`.
    """
    from refold.wiring.service import run_folding
    from refold.wiring.settings import load
    from refold.wiring.usage import read_usage

    question = {"namespace": namespace, "by": by, "begin": begin, "end": end}
    try:
        with working() as progress:
            found = run_folding(read_usage(load(data=data), question, _advance(progress)))
    except Refused as error:
        if error.field in {"by", "from", "to"}:
            error.field = f"--{error.field}"
        raise
    if output.is_json:
        json_line(found)
    else:
        print_usage(found, limit)


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


def print_usage(found: dict[str, Any], limit: int) -> None:
    """Print an answer as a table of at most so many rows."""
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
    if isinstance(value, float):
        return f"{value:,.1f}"
    return _name(value) if isinstance(value, str) else str(value)


def _name(text: str) -> str:
    """Return a name that differs from the text in parentheses for an absent name."""
    shown = text if len(text) <= NAME_CHARS_MAX else f"{text[: NAME_CHARS_MAX - 1]}…"
    return f'"{shown}"' if text.startswith(("(", '"')) else shown


usage = typer.Typer(name="usage", cls=UsageGroup)
usage.callback(help="Print what was written in a namespace, counted exactly.")(lambda: None)
add_command(usage, show, SHOW)
add_command(usage, serve)
