"""How results are printed: in colour on a terminal, plain when piped, as JSON for programs.

Used by the command modules. `rich` is imported only for a terminal: it takes longer than most commands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from refold.client import Change, Outcome, RecordedConflict, Transaction

SUMMARY_CHARS: Final = 100
VALUE_CHARS: Final = 40
VERSIONS_SHOWN: Final = 5
NUMBERS: Final = frozenset(
    {
        *("version", "documents", "events", "sequence", "lag", "folded", "last"),
        *("effective", "merged", "rejected", "duplicate", "conflicts", "operations", "bytes", "actors"),
        *("sessions", "seconds", "longest", "per minute"),
    }
)
LONG: Final = frozenset({"change", "state", "detail", "value", "of", "what it is"})
PIPED_COLUMNS: Final = 200
"""Width of what `rich` prints when it is not on a terminal."""

COLOURS: Final = {
    "applied": "green",
    "merged": "green",
    "duplicate": "cyan",
    "pending": "yellow",
    "rejected": "red",
    "conflict": "red",
}


@cache
def console(*, is_error: bool = False) -> Console:
    """Return the console of stdout, or of stderr."""
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(stderr=is_error, width=width, highlight=False, soft_wrap=not stream.isatty())


def working() -> Progress:
    """Return a progress bar on stderr for a `with` block; it is hidden when piped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = console(is_error=True)
    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


def note(text: str) -> None:
    """Print a remark for people on stderr, only on a terminal."""
    if sys.stderr.isatty():
        console(is_error=True).print(text, style="dim", markup=False)


def say(text: str, style: str = "", *, is_error: bool = False) -> None:
    """Print one line, on a terminal in a style."""
    stream = sys.stderr if is_error else sys.stdout
    if stream.isatty() and style:
        console(is_error=is_error).print(text, style=style, markup=False, soft_wrap=True)
    else:
        stream.write(text + "\n")
        stream.flush()


def json_line(value: Any) -> None:
    """Print one value as canonical JSON, in one line."""
    from refold.core import json_text

    sys.stdout.write(json_text.dumps(value).decode() + "\n")


def json_array(items: list[Any]) -> None:
    """Print a JSON array, one element a line."""
    from refold.core import json_text

    lines = ",\n".join(json_text.dumps(item).decode() for item in items)
    sys.stdout.write(f"[\n{lines}\n]\n" if items else "[]\n")


def json_document(value: Any) -> None:
    """Print a value for people: indented, in colour on a terminal."""
    text = indented_json(value)
    if sys.stdout.isatty():
        from rich.json import JSON

        console().print(JSON(text, indent=2))
    else:
        sys.stdout.write(text + "\n")


def indented_json(value: Any) -> str:
    """Return a value as indented JSON, keys in the order that they have."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table without its empty columns; control characters in cells are replaced."""
    shown = [place for place in range(len(columns)) if any(row[place] not in (None, "") for row in rows)]
    names = [columns[place] for place in shown]
    cells = [[printable(row[place]) for place in shown] for row in rows]
    if not rows:
        say("none", "dim", is_error=True)
    elif sys.stdout.isatty():
        _print_rich(names, cells)
    else:
        widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        for row in (names, *cells):
            padded = (
                cell.rjust(width) if name in NUMBERS else cell.ljust(width)
                for name, cell, width in zip(names, row, widths, strict=True)
            )
            sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _print_rich(names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in names:
        justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=name not in LONG, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table)


def print_items(items: Sequence[Any], columns: Mapping[str, Callable[[Any], Any]], *, is_json: bool) -> None:
    """Print values as a JSON array or as a table: of each column its name and its cell's text."""
    if is_json:
        from refold.client import as_json

        json_array([as_json(item) for item in items])
    else:
        print_table(tuple(columns), [[cell(item) for cell in columns.values()] for item in items])


def print_changes(changes: Sequence[Change], *, is_json: bool) -> None:
    """Print changes; when they occurred is a column of its own where it differs from when they were recorded."""
    columns: dict[str, Callable[[Change], Any]] = {
        "version": lambda it: it.version,
        "recorded": lambda it: short_time(it.recorded_at),
        "occurred": lambda it: short_time(it.occurred_at),
        "actor": lambda it: it.actor,
        "type": lambda it: it.type,
        "change": lambda it: change_summary(it.patch),
    }
    if all(change.occurred_at == change.recorded_at for change in changes):
        del columns["occurred"]
    print_items(changes, columns, is_json=is_json)


def print_beside(progress: Progress, line: str) -> None:
    """Print a line on stderr without breaking the bar."""
    from rich.text import Text

    progress.console.print(Text(printable(line)), soft_wrap=True)


def print_outcome(outcome: Outcome, *, is_json: bool) -> None:
    """Print an outcome in one line, and exit with 1 if the write has no effect."""
    import typer

    from refold.cli.errors import REFUSED
    from refold.client import as_json

    is_failed = not outcome.is_effective and outcome.status != "pending"
    if is_json:
        json_line(as_json(outcome))
    elif outcome.status == "conflict":
        line = f"conflict: {printable(outcome.detail)}; read it and try again"
        say(line, COLOURS["conflict"], is_error=True)
    else:
        parts = (
            outcome.status,
            "" if outcome.version is None else f"version {outcome.version}",
            "" if outcome.sequence is None else f"sequence {outcome.sequence}",
            outcome.recorded_at,
            ": ".join(filter(None, (outcome.reason, outcome.detail))),
            resolution_summary(outcome),
        )
        line = printable("  ".join(filter(None, parts)))
        say(line, COLOURS.get(outcome.status, ""), is_error=is_failed)
    if is_failed:
        raise typer.Exit(REFUSED)


def resolution_summary(conflict: Outcome | RecordedConflict) -> str:
    """Return what came of a stale event in a few words: `overwrote 3, dropped 1 (target_gone)`."""
    parts = [
        f"{name} {' '.join(map(str, versions[:VERSIONS_SHOWN]))}{' …' * (len(versions) > VERSIONS_SHOWN)}"
        for name, versions in (("overwrote", conflict.overwrote), ("merged with", conflict.merged))
        if versions
    ]
    parts += [f"dropped {each['operation']} ({each['reason']})" for each in conflict.dropped]
    return _shortened(", ".join(parts), SUMMARY_CHARS)


def print_transaction(done: Transaction, names: Sequence[str], *, is_json: bool) -> None:
    """Print what became of a transaction, then each document's version."""
    from refold.client import as_json

    if is_json:
        json_line(as_json(done))
        return
    sequences = f"sequences {done.first_sequence} to {done.last_sequence}"
    say(f"{done.status}  {sequences}  id {printable(done.id)}", COLOURS.get(done.status, ""))
    for name, outcome in zip(names, done.outcomes, strict=False):
        say(f"{printable(name)}  version {outcome.version}  sequence {outcome.sequence}")


def printable(cell: Any) -> str:
    """Return a cell's text without the characters that control a terminal."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else "�" for character in text)


def short_time(time: str | None) -> str:
    """Shorten a time of nine digits to milliseconds."""
    return "" if time is None else f"{time[:23]}Z"


def short_json(value: Any) -> str:
    """Return the beginning of a value."""
    from refold.core import json_text

    return _shortened(json_text.dumps(value).decode(), SUMMARY_CHARS)


def change_summary(patch: list[Any], *, chars_max: int = SUMMARY_CHARS) -> str:
    """Return a patch in a few words: `replace /total 12, add /items/-`."""
    from refold.core import json_text

    parts: list[str] = []
    for operation in patch:
        values = (json_text.dumps(operation[name]).decode() for name in _VALUES if name in operation)
        source = f"{operation['from']} →" if "from" in operation else ""
        path = operation["path"] or '""'
        words = (operation["op"], source, path, _shortened(" ".join(values), VALUE_CHARS))
        parts.append(" ".join(filter(None, words)))
        if sum(map(len, parts)) > chars_max:
            break
    rest = len(patch) - len(parts)
    text = _shortened(", ".join(parts), chars_max)
    return f"{text} (+{rest} more)" if rest else text


_VALUES: Final = ("value", "inc", "pos", "len", "str", "max")
"""Members of an operation that say what it does."""


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
