"""One document's past: its changes folded one after another into the line of each version.

Only `refold.client.exporting` may use it.
"""

from __future__ import annotations

from typing import Final

from refold.client.values import Change, Document
from refold.core import canonical
from refold.core.canonical import Json
from refold.core.document import ABSENT
from refold.core.errors import RefoldError
from refold.core.patch import apply_again

_DELETED: Final = [{"op": "remove", "path": ""}]
"""How history shows a delete; no author's patch can be this."""


class Past:
    """A document at one version, taken on change by change."""

    def __init__(self, document: str) -> None:
        """Begin before its first version."""
        self._document = document
        self._version = 0
        self._state: Json = ABSENT
        self._size = 0

    def line(self, change: Change) -> bytes:
        """Fold the next change, and write the version that it makes."""
        self._version += 1
        if change.version != self._version:
            raise RefoldError(
                "a document's history has a gap",
                document=self._document,
                expected_version=self._version,
                found_version=change.version,
            )
        if change.patch == _DELETED:
            self._state, self._size = ABSENT, 0
        else:
            state, size = ({}, 2) if self._state is ABSENT else (self._state, self._size)
            # They were accepted once: they apply again.
            self._state, self._size = apply_again(state, change.patch, size=size)
        said = {"actor": change.actor, "type": change.type, "meta": change.meta}
        return _line(
            doc=self._document,
            ts=change.occurred_at,
            version=change.version,
            **_state_fields(self._state),
            **{name: value for name, value in said.items() if value is not None},
        )


def state_line(document: Document) -> bytes:
    """Write a document as it is at one moment."""
    return _line(doc=document.id, ts=document.occurred_at, **_state_fields(document.state))


def _state_fields(state: Json) -> dict[str, Json]:
    if state is ABSENT:
        return {"state": None}
    return {"state": state} if state is not None else {"state": None, "present": True}


def _line(**fields: Json) -> bytes:
    return canonical.dumps(fields) + b"\n"
