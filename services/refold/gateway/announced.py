"""What this gateway has received about documents before the projection has committed it.

`Announced` makes reads wait for it (`Consistency`); `KnownStates` answers those of a document's head that need not.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Final, NamedTuple, Self, TypeVar

from refold.core import json_text
from refold.core.document import UNBOUNDED
from refold.core.extensions import EXTENDED
from refold.core.merge import apply_merge
from refold.core.replay import apply_accepted
from refold.core.stream import PARTITIONS
from refold.store import Key

KNOWN_STATES_MAX: Final = 1_000
KNOWN_STATE_BYTES_MAX: Final = 16 * 1024
"""Larger states are read from the store, after their commit."""

CHANGES_MAX: Final = 16
CHANGE_BYTES_MAX: Final = 16 * 1024
"""Changes to a known state before a read asks for it, and the bytes of one; after more, the read waits for a commit."""

View = Mapping[str, Any]
_Key = TypeVar("_Key")


class Announced:
    """The highest sequence of each document of which an outcome or a change has come before its commit, by partition.

    It holds no more than what the projector has folded and not committed, which is bounded there. A list asks for a
    namespace's highest, which is kept, too: to search for it among all documents takes a millisecond.
    """

    def __init__(self) -> None:
        # A partition's documents, and their namespaces, in the order of their sequences.
        self._documents: list[dict[Key, int]] = [{} for _ in range(PARTITIONS)]
        self._namespaces: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
        self._last = [0] * PARTITIONS

    def note(self, partition: int, key: Key, sequence: int) -> None:
        """Remember a sequence, unless a higher one of the document is known."""
        _note_highest(self._documents[partition], key, sequence)
        _note_highest(self._namespaces[partition], key[0], sequence)
        self._last[partition] = max(sequence, self._last[partition])

    def forget(self, partition: int, sequence: int) -> int:
        """Forget what is committed: up to a sequence. Return the highest that is forgotten, 0 for none."""
        documents, namespaces = self._documents[partition], self._namespaces[partition]
        if self._last[partition] <= sequence:
            highest = next(reversed(documents.values()), 0)
            documents.clear()
            namespaces.clear()
            return highest
        _drop(namespaces, sequence)
        return _drop(documents, sequence)

    def of_document(self, partition: int, key: Key) -> int:
        """Return a document's sequence; 0 where none is left."""
        return self._documents[partition].get(key, 0)

    def of_namespace(self, namespace: str | None) -> list[tuple[int, int]]:
        """Return the highest sequence of a namespace's documents, or of all, by partition."""
        if namespace is None:
            return list(enumerate(self._last))
        return [(partition, last.get(namespace, 0)) for partition, last in enumerate(self._namespaces)]


def _note_highest(highest: dict[_Key, int], key: _Key, sequence: int) -> None:
    """Remember a sequence, unless a higher one is known, at the end of the order."""
    if sequence > highest.get(key, 0):
        highest.pop(key, None)
        highest[key] = sequence


def _drop(highest: dict[_Key, int], sequence: int) -> int:
    """Drop the first ones, up to a sequence. Return the highest that is dropped, 0 for none."""
    dropped = dict(takewhile(lambda noted: noted[1] <= sequence, highest.items()))
    for key in dropped:
        del highest[key]
    return max(dropped.values(), default=0)


class KnownState(NamedTuple):
    """A version that this gateway has read or written: its state as canonical bytes, and the changes to apply to it."""

    version: int
    sequence: int
    recorded_at: str
    occurred_at: str
    state: bytes
    changes: tuple[View, ...] = ()

    @classmethod
    def of(cls, outcome: View, state: bytes, changes: tuple[View, ...] = ()) -> Self:
        """Make it of the outcome of a write."""
        about = outcome["version"], outcome["sequence"], outcome["recorded_at"], outcome["occurred_at"]
        return cls(*about, state, changes)


class KnownStates(dict[Key, KnownState]):
    """The states that were read, put and changed last. One is the head while its sequence is the document's last."""

    def put(self, key: Key, known: KnownState) -> None:
        """Remember a state, if it is small and no later one is known."""
        newest = self.pop(key, known)
        if newest.sequence <= known.sequence:
            newest = known
        if len(newest.state) <= KNOWN_STATE_BYTES_MAX:
            self[key] = newest
            if len(self) > KNOWN_STATES_MAX:
                del self[next(iter(self))]

    def note(self, key: Key, outcome: View, fields: View, state: bytes | None) -> None:
        """Remember the state after an event that was applied as it was sent; `state` is what it put.

        After a patch it is exact where that of the version before is known: no fold number decides in another way what
        RFC 6902, RFC 7396 and the extension operations say. The patch is applied when the state is read.
        """
        if state is not None:
            self.put(key, KnownState.of(outcome, state))
            return
        known, before = self.pop(key, None), outcome["version"] - 1
        if known is None or known.version != before or fields.get("base", before) != before:
            return
        is_known = all(operation["op"] in EXTENDED for operation in fields.get("patch", ()))
        is_bounded = len(known.changes) < CHANGES_MAX and json_text.size(fields) <= CHANGE_BYTES_MAX
        if "delete" not in fields and is_known and is_bounded:
            self[key] = KnownState.of(outcome, known.state, (*known.changes, fields))

    def head(self, key: Key, sequence: int) -> KnownState | None:
        """Return a document's head, if this is its sequence."""
        known = self.get(key)
        if known is None or known.sequence != sequence:
            return None
        if not known.changes:
            return known
        state = json_text.reread(known.state)
        for change in known.changes:
            if "merge" in change:
                state, _, _ = apply_merge(state, change["merge"], size=0, limits=UNBOUNDED)
            else:
                state = apply_accepted(state, change["patch"])
        known = known._replace(state=json_text.dumps(state), changes=())
        self.put(key, known)
        return known
