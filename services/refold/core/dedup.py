"""The dedup window: the ids of a document's last events, and the outcome of each.

One identity is `id digest (16) | content digest (16) | first outcome`, as bytes in memory, in the journal and beside
each page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from refold.core.document import STATUSES, First

DIGEST_BYTES: Final = 16
_FIRST: Final = struct.Struct(">QQqQBB")
_OUTCOME_AT: Final = 2 * DIGEST_BYTES
_REASON_AT: Final = _OUTCOME_AT + _FIRST.size


def id_digest(event_id: str) -> bytes:
    """Return the 16 bytes by which an id is looked up."""
    return sha256(event_id.encode()).digest()[:DIGEST_BYTES]


def content_digest(canonical: bytes) -> bytes:
    """Return the 16 bytes that tell a retry from another event under the same id."""
    return sha256(canonical).digest()[:DIGEST_BYTES]


def remember(window: dict[bytes, bytes], digest: bytes, content: bytes, first: First, ids_max: int) -> bytes:
    """Add an identity to a window of at most `ids_max`, which drops the oldest; return it as bytes."""
    ordinal, sequence, recorded_at, version, status, is_creation, reason = first
    identity = digest + content + _FIRST.pack(ordinal, sequence, recorded_at, version, status, is_creation)
    if reason:
        identity += reason.encode("ascii")
    _admit(window, digest, identity, ids_max)
    return identity


def admit(window: dict[bytes, bytes], identity: bytes, ids_max: int) -> None:
    """Add an identity, as bytes, as the window's newest."""
    _admit(window, identity[:DIGEST_BYTES], identity, ids_max)


def _admit(window: dict[bytes, bytes], digest: bytes, identity: bytes, ids_max: int) -> None:
    window.pop(digest, None)
    window[digest] = identity
    if len(window) > ids_max:
        del window[next(iter(window))]


def recall(window: dict[bytes, bytes], digest: bytes, oldest_ordinal: int) -> tuple[bytes, First] | None:
    """Return content digest and first outcome of an id, where an event from number `oldest_ordinal` on carried it."""
    identity = window.get(digest)
    if identity is None:
        return None
    first = first_outcome(identity)
    return (identity[DIGEST_BYTES:_OUTCOME_AT], first) if first.ordinal >= oldest_ordinal else None


def first_outcome(identity: bytes) -> First:
    """Read the first outcome out of an identity."""
    ordinal, sequence, recorded_at, version, status, is_creation = _FIRST.unpack_from(identity, _OUTCOME_AT)
    reason = identity[_REASON_AT:].decode("ascii")
    return First(ordinal, sequence, recorded_at, version, STATUSES[status], bool(is_creation), reason)


def pack_identities(identities: Iterable[bytes]) -> bytes:
    """Join identities, in order, into a page's column."""
    return b"".join(len(identity).to_bytes(2, "big") + identity for identity in identities)


def unpack_identities(column: bytes) -> list[bytes]:
    """Take a page's column apart."""
    identities = []
    at = 0
    while at < len(column):
        end = at + 2 + int.from_bytes(column[at : at + 2], "big")
        identities.append(column[at + 2 : end])
        at = end
    return identities
