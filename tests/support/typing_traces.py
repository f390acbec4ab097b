"""Editing traces: what a person types and deletes, and where the cursor goes.

An edit is `(position, deleted, inserted)`, as in the public traces of github.com/josephg/editing-traces.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

WORDS = [
    "event",
    "state",
    "fold",
    "base",
    "head",
    "view",
    "gap",
    "text",
    "node",
    "é𝄞",
    "version",
    "window",
    "log",
]


class Edit(NamedTuple):
    """One edit of a text. Positions are code points."""

    position: int
    deleted: int
    inserted: str

    def apply(self, text: str) -> str:
        """Return the text after the edit."""
        return text[: self.position] + self.inserted + text[self.position + self.deleted :]

    def operations(self, path: str) -> list[dict[str, Any]]:
        """Return the edit as operations on a string."""
        found: list[dict[str, Any]] = []
        if self.deleted:
            found.append({"op": "str_del", "path": path, "pos": self.position, "len": self.deleted})
        if self.inserted:
            found.append({"op": "str_ins", "path": path, "pos": self.position, "str": self.inserted})
        return found

    def line_operations(self, text: str, path: str) -> list[dict[str, Any]]:
        """Return the edit of a text as operations on an array of its lines."""
        end = self.position + self.deleted
        first, last = text.count("\n", 0, self.position), text.count("\n", 0, end)
        after = self.apply(text).split("\n")
        added = after[first : first + self.inserted.count("\n") + 1]
        found = [{"op": "replace", "path": f"{path}/{first}", "value": added[0]}]
        found += [{"op": "remove", "path": f"{path}/{first + 1}"}] * (last - first)
        for number, line in enumerate(added[1:], first + 1):
            found.append({"op": "add", "path": f"{path}/{number}", "value": line})
        return found


class Typist:
    """A person at a text: mostly the next letter, else a correction, another place, a selection or a pasted text."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._cursor = 0
        self._rest = ""

    def edit(self, text: str) -> Edit:
        """Return the next edit of a text, which others may have changed."""
        random = self._random
        position = min(self._cursor, len(text))
        if self._rest and random.random() < 0.9:
            inserted, self._rest = self._rest[0], self._rest[1:]
            return self._made(Edit(position, 0, inserted))
        self._rest = random.choice(WORDS) + random.choice("      ,.\n")
        choice = random.random()
        if choice < 0.2 and position:
            return self._made(Edit(position - 1, 1, ""))
        if choice < 0.3:
            position = min(len(text), max(0, position + random.randint(-30, 30)))
        elif choice < 0.4:
            position = random.randint(0, len(text))
        if choice < 0.45 and position < len(text):
            return self._made(
                Edit(position, random.randint(1, min(12, len(text) - position)), random.choice(["", "x"]))
            )
        if choice < 0.5:
            return self._made(Edit(position, 0, " ".join(random.choices(WORDS, k=8)) + "\n"))
        inserted, self._rest = self._rest[0], self._rest[1:]
        return self._made(Edit(position, 0, inserted))

    def _made(self, edit: Edit) -> Edit:
        self._cursor = edit.position + len(edit.inserted)
        return edit
