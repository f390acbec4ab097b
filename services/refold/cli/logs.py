"""The command that prints the log of an embedded system: logs. Loaded by `refold.cli`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import typer

from refold.cli.options import DataOption, Output, read_time
from refold.cli.output import note, printable, say, short_time
from refold.core.errors import Refused
from refold.embedded import DEFAULT_DATA

if TYPE_CHECKING:
    from refold.embedded.logs import LogLine, SystemLogs

FOLLOW_SECONDS: Final = 0.2
"""How often `--follow` looks for new lines."""

COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
HEAD: Final = frozenset({"time", "level", "service", "instance", "event", "exception"})
"""Fields that are shown otherwise than the rest, or not."""

Level = Literal["debug", "info", "warning", "error", "critical"]
_DURATION: Final = re.compile(r"\d{1,9}[smhdw]", re.ASCII)


def _read_since(text: str) -> str:
    return read_time(f"-{text}" if _DURATION.fullmatch(text) else text)


def logs(
    output: Output,
    service: Annotated[
        str | None,
        typer.Option("--service", metavar="NAME", help="Only of gateway, projector, nats, postgres, …"),
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="NAME", help="Only this event, such as commit_slow.")
    ] = None,
    level: Annotated[Level, typer.Option("--level", help="Only lines of this level and above.")] = "debug",
    since: Annotated[
        str | None,
        typer.Option(parser=_read_since, metavar="10m|TIME", help="Only lines since then: 10m, 2h, a time."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with lines as they are written.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Print the log lines of the system on a data folder, of all its parts by time.

    It reads the files that `refold up` keeps there, whether the system runs or not. A line that no service wrote (a
    server's message, the report of a crash) has its text as event.
    """
    from refold.embedded.logs import SystemLogs

    with SystemLogs(data or DEFAULT_DATA) as found:
        if service is not None and service not in (parts := found.parts):
            rule = f"there is no log of it here; there are {', '.join(parts)}"
            raise Refused("bad_usage", rule, field="--service")
        levels = get_args(Level)[get_args(Level).index(level) :]
        is_one = False
        for line in _lines(found, is_followed=follow):
            fields = line.fields
            is_wanted = service in (None, line.part) and event in (None, fields["event"])
            # A level that is not known may be any.
            is_wanted = is_wanted and fields["level"] in (None, *levels)
            if is_wanted and (since is None or line.at >= since[:-1]):
                is_one = True
                _print(line, is_json=output.is_json)
    if not is_one:
        note("none")


def _lines(found: SystemLogs, *, is_followed: bool) -> Iterator[LogLine]:
    yield from found.read(is_growing=is_followed)
    while is_followed:
        time.sleep(FOLLOW_SECONDS)
        yield from found.read(is_growing=True)


def _print(line: LogLine, *, is_json: bool) -> None:
    import orjson

    fields = line.fields
    if is_json:
        say(orjson.dumps(fields).decode())
        return
    head = (
        short_time(line.at or None) or "-",
        line.part.ljust(10),
        (fields["level"] or "-").ljust(8),
        fields["event"],
    )
    rest = (f"{name}={_shown(value)}" for name, value in fields.items() if name not in HEAD)
    say(printable("  ".join((*head, *rest))), COLOURS.get(fields["level"], ""))
    for exception_line in str(fields.get("exception") or "").splitlines():
        say(f"    {printable(exception_line)}")


def _shown(value: Any) -> str:
    """Return a field's value: a text that is one word as it is, anything else as JSON."""
    import orjson

    return (
        value
        if isinstance(value, str) and value.isprintable() and " " not in value
        else orjson.dumps(value).decode()
    )
