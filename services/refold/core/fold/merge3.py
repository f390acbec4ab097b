"""Three-way merges of values: what an author saw, what is at the head, and what the author wrote instead.

Objects are merged key by key, texts by position. Of two other values the incoming one stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from refold.core.json_text import Json, identical


class Merge:
    """One merge, as operations on the value at the head; their `path` is a tuple of tokens below it.

    `is_possible`: all three are objects, or all are strings. `is_by_members`: nothing but members of objects changes.
    """

    __slots__ = ("is_by_members", "is_possible", "operations")

    def __init__(self, seen: Json, head: Json, incoming: Json) -> None:
        self.is_by_members = True
        self.operations: list[Json] = []
        kinds = {type(seen), type(head), type(incoming)}
        self.is_possible = kinds in ({dict}, {str})
        if self.is_possible:
            self._merge((), seen, head, incoming)

    def _merge(self, path: tuple[str, ...], seen: Json, head: Json, incoming: Json) -> None:
        if identical(seen, incoming) or identical(head, incoming):
            return
        kinds = {type(seen), type(head), type(incoming)}
        if kinds == {dict}:
            self._merge_members(path, seen, head, incoming)
        elif kinds == {str} and not identical(seen, head):
            self.is_by_members = False
            self._add("replace", path, merge_texts(seen, head, incoming))
        else:
            self._add("replace", path, incoming)

    def _merge_members(self, path: tuple[str, ...], seen: Json, head: Json, incoming: Json) -> None:
        for key in sorted({**seen, **incoming}):
            below = (*path, key)
            if key not in incoming:
                # An edit inside keeps what another removes.
                if key in head and identical(seen[key], head[key]):
                    self.operations.append({"op": "remove", "path": below})
            elif key not in head:
                if key not in seen or not identical(seen[key], incoming[key]):
                    self._add("add", below, incoming[key])
            elif key in seen:
                self._merge(below, seen[key], head[key], incoming[key])
            elif type(head[key]) is dict and type(incoming[key]) is dict:
                self._merge(below, {}, head[key], incoming[key])
            elif not identical(head[key], incoming[key]):
                self._add("replace", below, incoming[key])

    def _add(self, name: str, path: tuple[str, ...], value: Json) -> None:
        self.operations.append({"op": name, "path": path, "value": value})


def merge_texts(seen: str, head: str, incoming: str) -> str:
    """Make both sides' edits: what either removes is removed, what either inserts is there, the incoming first."""
    parts: list[str] = []
    at = 0
    edits = sorted([*_edits(seen, incoming, 0), *_edits(seen, head, 1)])
    for begin, _, end, text in edits:
        parts.append(seen[at:begin])
        parts.append(text)
        at = max(at, end, begin)
    parts.append(seen[at:])
    return "".join(parts)


def _edits(old: str, new: str, side: int) -> Iterator[tuple[int, int, int, str]]:
    """Yield what to replace in a text: begin, side, end, text; word by word where the lines or words allow it."""
    most = min(len(old), len(new))
    start = 0
    while start < most and old[start] == new[start]:
        start += 1
    end = 0
    while end < most - start and old[-1 - end] == new[-1 - end]:
        end += 1
    if start < len(old) - end or start < len(new) - end:
        yield start, side, len(old) - end, new[start : len(new) - end]
