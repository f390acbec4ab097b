"""Read an SQL adapter's own files: named statements, and migrations.

Used by the adapters for PostgreSQL and SQLite; each has its `queries.sql` and `migrations/` in its package.
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


def statements_of(package: str) -> Mapping[str, str]:
    """Return the statements of a package's `queries.sql` by name."""
    parts = _NAME.split((files(package) / "queries.sql").read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def migrations_of(package: str) -> list[Migration]:
    """Return a package's migrations in their order."""
    return [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in sorted((files(package) / "migrations").iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]
