"""Rejections as the store keeps them, made from what the fold rejected. Used by the projector and the audit."""

from __future__ import annotations

from typing import Final

from refold.core import json_text
from refold.core.envelope import open_envelope
from refold.core.errors import Refused
from refold.core.history import Entry
from refold.core.limits import Limits
from refold.core.stream import Record, Route
from refold.store import Rejection

ABOUT_CHARS_MAX: Final = 256
"""Characters of each of the author's texts in a rejection's row; the event itself is kept whole."""


def rejection_of(where: Route, entry: Entry, limits: Limits) -> Rejection:
    """Make the rejection of a document's own event, which is in its journal or page."""
    return Rejection(
        where.namespace,
        where.document,
        where.partition,
        entry.sequence,
        entry.recorded_at,
        entry.reason,
        entry.detail,
        _about(entry.headers, entry.body, limits),
        None,
    )


def unroutable_rejection(where: Route, record: Record, recorded_at: int) -> Rejection:
    """Make the rejection of an event whose subject names no document; `record` has its author's headers only."""
    detail = f"subject: {record.subject[:200]!r}"
    return Rejection(
        "", "", where.partition, record.sequence, recorded_at, where.reason, detail, b"{}", record
    )


def _about(headers: bytes, body: bytes, limits: Limits) -> bytes:
    """Return id, actor and type of a rejected event, as far as they can be read."""
    try:
        fields = open_envelope(headers, body, limits).fields
    except Refused:
        return b"{}"
    names = ("id", "actor", "type")
    texts = {name: fields[name][:ABOUT_CHARS_MAX] for name in names if isinstance(fields.get(name), str)}
    return json_text.dumps(texts)
