"""The command that prints the log of an embedded system: logs. Loaded by `refold.cli`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

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
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_UNIT_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,3}})?) ?({'|'.join(_UNIT_SECONDS)})?", re.ASCII)


def _read_since(text: str) -> str:
    found = _DURATION.fullmatch(text)
    if found is None:
        return read_time(text)
    if found[2] is None:
        rule = f"{text} has no unit: write {text}s, {text}m, {text}h, {text}d, or a time"
        raise Refused("bad_usage", rule, field="--since")
    return read_time(f"-{float(found[1]) * _UNIT_SECONDS[found[2]]:.0f}s")


def _read_level(text: str) -> str:
    """Return the level that a text is, or begins: `WARNING`, `warn`."""
    for level in LEVELS:
        if text and level.startswith(text.lower()):
            return level
    raise Refused("bad_usage", f"{text} is none of {', '.join(LEVELS)}", field="--level")


def logs(
    output: Output,
    service: Annotated[
        str | None,
        typer.Option("--service", metavar="NAME", help="Only of gateway, projector, nats, postgres, …"),
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="NAME", help="Only this event, such as commit_slow.")
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            parser=_read_level, metavar="|".join(LEVELS), help="Only lines of this level and above."
        ),
    ] = LEVELS[0],
    since: Annotated[
        str | None,
        typer.Option(
            parser=_read_since, metavar="10m|TIME", help="Only lines since then: 10m, 1.5h, 2d, a time."
        ),
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
        levels = LEVELS[LEVELS.index(level) :]
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

    from refold.embedded.logs import readable

    fields = line.fields
    if is_json:
        say(orjson.dumps(fields).decode())
        return
    time, level = short_time(line.at or None) or "-", fields["level"] or "-"
    # Every line has its time and part, also those of a traceback: programs choose lines.
    for text in readable(fields):
        row = printable(f"{time}  {line.part:<10}  {level:<8}  {text}")
        say(row, COLOURS.get(level, ""))
