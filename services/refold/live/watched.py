"""A document while it is watched: its last changes, its state at the head, and the queries that share both.

Made by the feed; used by queries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import takewhile
from typing import Final, Protocol

from orjson import Fragment

from refold.core import json_text
from refold.core.document import ABSENT, from_canonical
from refold.core.extensions import EXTENSIONS, plain_operations
from refold.core.history import Snapshot
from refold.core.json_text import Json, copied
from refold.core.replay import apply_accepted
from refold.core.timestamp import format_time
from refold.store import Key

RING_CHANGES_MAX: Final = 1_000
RING_BYTES_MAX: Final = 1024 * 1024
"""What is kept of one document's changes, for subscribers that are behind."""

HELD_BYTES_MAX: Final = 1024 * 1024
"""Changes of one document that are held until the ones before are there; what is more is read from history."""

COUNTED_BYTES: Final = 64 * 1024
"""A state's size is counted again after so many bytes of changes, and as many as it has."""


class Change:
    """A change as it was announced: canonical bytes, as `schemas/change.schema.json` says.

    `plain_body` is the same with the operations of RFC 6902 alone. It is None where that is not known. Without a patch,
    which a notice has no room for where it is large, nothing is known of its operations.
    """

    __slots__ = ("body", "has_extensions", "plain_body", "sequence", "version")

    def __init__(self, version: int, sequence: int, body: bytes) -> None:
        self.version = version
        self.sequence = sequence
        self.body = body
        is_suspect = (b'"op":"inc"' in body or b'"op":"str_' in body) and self.has_patch
        self.has_extensions = is_suspect and any(it["op"] in EXTENSIONS for it in self.operations())
        self.plain_body = None if self.has_extensions else body

    @property
    def has_patch(self) -> bool:
        """Tell whether it has its patch. Its members are in order: the patch ends where `recorded_at` begins."""
        return not self.body.endswith(_NO_PATCH, 0, self.body.rfind(_RECORDED_AT))

    def fields(self) -> dict[str, Json]:
        """Parse it; nothing in the result is shared."""
        fields: dict[str, Json] = json_text.reread(self.body)
        return fields

    def operations(self) -> list[Json]:
        """Parse its patch, which it has; nothing in the result is shared."""
        return list(self.fields()["patch"])


class Watcher(Protocol):
    """What looks at each change of a document: a query."""

    is_native: bool
    """It takes extension operations as they are."""

    needs_operations: bool

    def before(self, operations: list[Json]) -> None:
        """Look at the document before a change, whose operations may only be read."""

    def after(self, change: Change, operations: list[Json]) -> None:
        """Take a change of the document, whose operations may only be read."""

    def restart(self) -> None:
        """Begin again at another head of the document."""


class WatchedDocument:
    """A document at its newest announced version. The feed appends each version, without a gap."""

    def __init__(
        self, key: Key, head: Snapshot, *, ring_bytes_max: Callable[[], int] = lambda: RING_BYTES_MAX
    ) -> None:
        self.namespace, self.document = key
        self.queries: dict[Hashable, Watcher] = {}
        self._ring_bytes_max = ring_bytes_max
        self._begin(head)

    def _begin(self, head: Snapshot) -> None:
        self.version, self.sequence = head.version, head.sequence
        self.state_bytes = len(head.state or b"")
        self._recorded_at = format_time(head.recorded_at) if head.version else None
        self._state = from_canonical(head.state)
        self.is_absent = head.state is None
        self._pending: list[Change] = []
        self._pending_bytes = 0
        self._grown_bytes = 0
        self.changes: deque[Change] = deque()
        self._ring_bytes = 0

    @property
    def floor(self) -> int:
        """The version after which all changes are kept."""
        return self.version - len(self.changes)

    @property
    def recorded_at(self) -> str | None:
        """When the newest version was recorded; None where there is none."""
        return self.changes[-1].fields()["recorded_at"] if self.changes else self._recorded_at

    @property
    def kept_bytes(self) -> int:
        """Bytes of the changes that are kept."""
        return self._ring_bytes

    def has_room(self, change: Change) -> bool:
        """Tell whether a change can be kept with all that are."""
        is_room = self._ring_bytes + _size(change) <= RING_BYTES_MAX and len(self.changes) < RING_CHANGES_MAX
        return is_room or not self.changes

    def count(self) -> int:
        """Return the canonical bytes of its state, counted again where it may have grown much."""
        if self._grown_bytes > self.state_bytes + COUNTED_BYTES:
            self._grown_bytes = 0
            state = self.state()
            self.state_bytes = 0 if state is ABSENT else json_text.size(state)
        return self.state_bytes

    def changes_after(self, version: int) -> list[Change]:
        """Return the changes after a version that is not below `floor`."""
        return [*takewhile(lambda change: change.version > version, reversed(self.changes))][::-1]

    def append(self, change: Change) -> None:
        """Take the next version."""
        queries = list(self.queries.values())
        operations = plain = None
        if change.has_extensions and not all(query.is_native for query in queries):
            operations, plain = change.operations(), self._plain(change)
            change.plain_body = _with_patch(change, plain)
        elif any(query.needs_operations for query in queries):
            operations = plain = change.operations()
        for query in queries:
            query.before((operations if query.is_native else plain) or [])
        self.version, self.sequence = change.version, change.sequence
        self.is_absent = _REMOVAL in change.body and change.operations()[-1:] == [
            {"op": "remove", "path": ""}
        ]
        self._keep(change)
        for query in queries:
            query.after(change, (operations if query.is_native else plain) or [])

    def _keep(self, change: Change) -> None:
        self.changes.append(change)
        self._ring_bytes += _size(change)
        bytes_max = min(RING_BYTES_MAX, self._ring_bytes_max())
        while len(self.changes) > 1 and (
            len(self.changes) > RING_CHANGES_MAX or self._ring_bytes > bytes_max
        ):
            self._ring_bytes -= _size(self.changes.popleft())
        self._grown_bytes += len(change.body)
        self._pending.append(change)
        self._pending_bytes += len(change.body)
        if len(self._pending) > RING_CHANGES_MAX or self._pending_bytes > bytes_max:
            self.state()

    def _plain(self, change: Change) -> list[Json]:
        """Return a change's operations with the extensions written as operations of RFC 6902."""
        state = copied(_object(self.state()))
        plain: list[Json] = []
        for operation in change.operations():
            some = plain_operations(state, operation) if operation["op"] in EXTENSIONS else [operation]
            plain += copied(some)
            state = applied(state, some)
        return plain

    def reset(self, head: Snapshot) -> None:
        """Take another head, which does not follow: every subscriber gets a snapshot."""
        self._begin(head)
        for query in self.queries.values():
            query.restart()

    def state(self) -> Json:
        """Return the state at the head, or `ABSENT`. It is changed in place by later versions."""
        for change in self._pending:
            self._state = applied(self._state, change.operations())
        self._pending.clear()
        self._pending_bytes = 0
        return self._state

    def about(self) -> dict[str, Json]:
        """Return what messages say of the document at its head."""
        return {
            "namespace": self.namespace,
            "document": self.document,
            "version": self.version,
            "sequence": self.sequence,
            "recorded_at": self.recorded_at,
        }


class Watch:
    """A document that is watched: for how many, what is known of it, and what is held until a gap is filled."""

    def __init__(self, key: Key, partition: int) -> None:
        self.key = key
        self.partition = partition
        self.users_count = 0
        self.document: WatchedDocument | None = None
        self.opened: asyncio.Future[WatchedDocument] = asyncio.get_running_loop().create_future()
        # The highest version that is known to exist.
        self.newest = 0
        # Whether an audit ran while the head was being read.
        self.is_doubtful = False
        self._held: dict[int, Change] = {}
        self._held_bytes = 0

    def hold(self, change: Change) -> None:
        """Keep a change until the ones before it are appended."""
        if self._held_bytes + len(change.body) <= HELD_BYTES_MAX and change.version not in self._held:
            self._held[change.version] = change
            self._held_bytes += len(change.body)

    def append_held(self, document: WatchedDocument) -> bool:
        """Append what follows the document's version; return whether that is all."""
        while (change := self._held.pop(document.version + 1, None)) is not None:
            self._held_bytes -= len(change.body)
            document.append(change)
        if document.version < self.newest:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Forget what is held."""
        self._held.clear()
        self._held_bytes = 0


def applied(state: Json, operations: list[Json]) -> Json:
    """Apply an accepted patch in place; return the root, or `ABSENT` after a removal of the root."""
    state = _object(state)
    for operation in operations:
        if operation["op"] == "remove" and not operation["path"]:
            state = ABSENT
        else:
            state = apply_accepted(_object(state), [operation])
    return state


def _object(state: Json) -> Json:
    """Return a state to apply a patch to: an absent document reads as an empty object."""
    return {} if state is ABSENT else state


def _size(change: Change) -> int:
    plain = change.plain_body
    return len(change.body) + (0 if plain is None or plain is change.body else len(plain))


def _with_patch(change: Change, patch: list[Json]) -> bytes:
    return json_text.trimmed(json_text.dumps(change.fields() | {"patch": Fragment(json_text.dumps(patch))}))


def patches(changes: list[Change], *, is_native: bool) -> Iterator[Json]:
    """Yield the operations of changes, of RFC 6902 alone unless `is_native`."""
    for change in changes:
        body = change.body if is_native else change.plain_body
        assert body is not None
        yield from json_text.reread(body)["patch"]


_NO_PATCH: Final = b'"patch":null,'
_RECORDED_AT: Final = b'"recorded_at":'
_REMOVAL: Final = b'{"op":"remove","path":""}'
