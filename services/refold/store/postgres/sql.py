"""The statements of `queries.sql` by name, and the packaged migrations in order.

For this adapter alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Migration(NamedTuple):
    """One step from an older schema to the next; `text` may hold many statements."""

    number: int
    name: str
    text: str


def _statements() -> Mapping[str, str]:
    parts = _NAME.split((files(__package__) / "queries.sql").read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _migrations() -> list[Migration]:
    folder = files(__package__) / "migrations"
    found = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name
    )
    return [
        Migration(int(entry.name[:4]), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in found
    ]


SQL: Final = _statements()
MIGRATIONS: Final = _migrations()
