"""How answers are printed: for people in colour on a terminal, for programs as JSON.

Used by the command modules alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

    from refold.client import Outcome

SUMMARY_CHARS: Final = 100
NUMBERS: Final = frozenset({"version", "documents", "events", "sequence", "lag", "folded", "last"})
LONG: Final = frozenset({"change", "state", "detail", "what it is"})

PIPED_COLUMNS: Final = 200
"""Width of what is not printed on a terminal: wide enough to be cut nowhere that matters."""

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


def json_line(value: Any) -> None:
    """Print one value as canonical JSON, in one line."""
    from refold.core import canonical

    sys.stdout.write(canonical.dumps(value).decode() + "\n")


def json_array(items: list[Any]) -> None:
    """Print a JSON array, one element a line."""
    from refold.core import canonical

    lines = ",\n".join(canonical.dumps(item).decode() for item in items)
    sys.stdout.write(f"[\n{lines}\n]\n" if items else "[]\n")


def json_document(value: Any) -> None:
    """Print a value for people: indented, in colour on a terminal."""
    import json

    # Keys in the order they have: the state is canonical already.
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not sys.stdout.isatty():
        sys.stdout.write(text + "\n")
        return
    from rich.json import JSON

    console().print(JSON(text, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a plain table; cells are others' text, shown as they are. Columns without any text are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console().print("[dim]none[/]")
        return
    shown = [place for place in range(len(columns)) if any(row[place] not in (None, "") for row in rows)]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in (columns[place] for place in shown):
        made.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=column not in LONG)
    for row in rows:
        made.add_row(*(Text(printable(row[place])) for place in shown))
    console().print(made)


def printable(cell: Any) -> str:
    """Return a cell's text without what would steer a terminal."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else "�" for character in text)


def short_time(time: str | None) -> str:
    """Shorten a time of nine digits to milliseconds."""
    return "" if time is None else f"{time[:23]}Z"


def short_json(value: Any) -> str:
    """Show the beginning of a value."""
    from refold.core import canonical

    return _shortened(canonical.dumps(value).decode(), SUMMARY_CHARS)


def outcome_line(outcome: Outcome) -> str:
    """Say an outcome in one line, with markup."""
    from rich.markup import escape

    colour = COLOURS.get(outcome.status, "white")
    parts = [f"[{colour}]{outcome.status}[/]"]
    parts += [f"version {outcome.version}"] if outcome.version is not None else []
    parts += [f"[dim]sequence {outcome.sequence}[/]"] if outcome.sequence is not None else []
    parts += [f"[dim]{outcome.recorded_at}[/]"] if outcome.recorded_at else []
    parts += [escape(printable(": ".join(filter(None, (outcome.reason, outcome.detail)))))]
    return "  ".join(filter(None, parts))


def change_summary(patch: list[Any], *, chars_max: int = SUMMARY_CHARS) -> str:
    """Say a patch in a few words: `replace /total 12, add /items/-`."""
    from refold.core import canonical

    said = []
    for operation in patch:
        value = canonical.dumps(operation["value"]).decode() if "value" in operation else ""
        source = f"{operation['from']} →" if "from" in operation else ""
        path = operation["path"] or '""'
        said.append(" ".join(part for part in (operation["op"], source, path, _shortened(value)) if part))
        if sum(map(len, said)) > chars_max:
            break
    rest = len(patch) - len(said)
    text = _shortened(", ".join(said), chars_max)
    return f"{text} (+{rest} more)" if rest else text


def _shortened(text: str, chars_max: int = 40) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
