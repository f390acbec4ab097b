"""The mode `changes` of one document: each change by itself, of all types or of some.

That of a namespace is in `refold.live.ring`.
"""

from __future__ import annotations

from typing import Final

from refold.core import json_text
from refold.live import Frame
from refold.live.query import WholeQuery, change_frame
from refold.live.watched import Change, WatchedDocument


class ChangesQuery(WholeQuery):
    """Each change of a document by itself, of any type or of some, without states."""

    def __init__(self, document: WatchedDocument, wanted_type: str | None) -> None:
        super().__init__(document, is_native=True)
        self._type = TypeFilter(wanted_type)

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send to a subscriber at a position, or perhaps is."""
        if not super().is_behind(position) or not self.floor <= position <= self.document.version:
            return super().is_behind(position)
        return any(map(self._type.passes, self._changes_after(position)))

    def _make(self, position: int, after: int, *, is_merged: bool) -> Frame:  # noqa: ARG002 - never merged
        change = next(filter(self._type.passes, self._changes_after(position)))
        return change_frame(change.body, position=change.version, sequence=change.sequence)

    def snapshot(self, why: str) -> Frame:
        """Return where a subscriber continues; a `reset` where the log is another."""
        kind, document = "reset" if why == "log" else "ready", self.document
        names = ("namespace", "document", "version", "sequence")
        body = json_text.dumps({"kind": kind} | {name: self.about(None)[name] for name in names})
        return Frame(kind, body, position=document.version, sequence=document.sequence)


class TypeFilter:
    """Changes of one type, or of all that begin like it where it ends in `*`; all changes for None."""

    def __init__(self, wanted: str | None) -> None:
        self._is_any = wanted is None
        is_exact = wanted is not None and not wanted.endswith("*")
        text = json_text.dumps((wanted or "").removesuffix("*"))
        self._bytes = _TYPE + (text + b"," if is_exact else text[:-1])

    def passes(self, change: Change) -> bool:
        """Tell whether a change is one of them. Its body is canonical: only its version comes after its type."""
        return self._is_any or change.body.startswith(self._bytes, change.body.rfind(_TYPE))


_TYPE: Final = b'"type":'
