"""Draft an event by the fold's own rules before it is published, or a large state as several events.

Used by the routes that write and by `refold.gateway.writes`. A state that is too large for one event is written as
several events of one document in one atomic batch: each takes a version, and the last one carries the author's id and
is the answer's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from refold.core import json_text
from refold.core.envelope import content_of, envelope_of, open_envelope
from refold.core.errors import Refused
from refold.core.event import check_event
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.history import Entry
from refold.core.json_text import Json
from refold.core.split import SplitWrite, split_write
from refold.core.stream import author_headers
from refold.gateway.consistency import BareHead
from refold.gateway.responses import Problem
from refold.log import Publication, validated_headers
from refold.store import Key

_SPLIT_BYTES_MIN: Final = EVENT_BYTES_MAX // 2
"""With a smaller state, no event is too large for its state."""

_BASE_FIELDS: Final = frozenset({"base", "on_conflict"})

View = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that may be published: it carries an id, its author's (`has_own_id`) or one made for it.

    `split`: the events that write it, where its state is too large for one.
    """

    key: Key
    fields: View
    headers: tuple[tuple[str, str], ...] = ()
    has_own_id: bool = False
    split: SplitWrite | None = None

    @property
    def id(self) -> str:
        return str(self.fields["id"])

    @property
    def events_count(self) -> int:
        return 1 if self.split is None else len(self.split)

    def publications(self, head: BareHead | None = None) -> list[Publication]:
        """Return what the log takes; with a head, only while that is the document's.

        With a base of its own, an event is resolved against what came between that and the head. Raises `Refused` where
        an event is too large.
        """
        if self.split is not None:
            bodies = self.split.bodies(0 if head is None else head.version)
        else:
            given = {} if head is None or "base" in self.fields else strictly(head.version)
            bodies = [body_of({**self.fields, **given})]
        last_sequence = None if head is None else head.last_sequence
        return [
            Publication(
                namespace=self.key[0],
                document=self.key[1],
                body=body,
                headers=self.headers,
                expected_last_sequence=None if at else last_sequence,
            )
            for at, body in enumerate(bodies)
        ]

    def is_published_as(self, headers: bytes, body: bytes) -> bool:
        """Return whether a recorded event is this very one (the last, of several), published strictly or not."""
        try:
            known = open_envelope(author_headers(headers), body, NEWEST.limits)
        except Refused:
            return False
        if self.split is not None:
            return known.id == self.id and is_same_part(body, self.split.bodies(0)[-1])
        ours = self.fields
        if known.fields.get("on_conflict") == "reject" and "base" in known.fields:
            ours = ours | strictly(known.fields["base"])
        return known.id == self.id and content_of(known.fields) == content_of(ours)


def split_of(fields: View, state_bytes: int) -> SplitWrite | None:
    """Return the events that a PUT of a state of so many canonical bytes is written as; None where it fits into one.

    Raises `Refused` where no document may be so large, `Problem` where the author names a base.
    """
    if state_bytes < _SPLIT_BYTES_MIN or json_text.size(fields) <= EVENT_BYTES_MAX:
        return None
    if not _BASE_FIELDS.isdisjoint(fields):
        detail = "a state that is written as several events takes If-Match instead of Refold-Base"
        raise Problem(422, "contradictory", detail, field="refold-base")
    return split_write(fields["put"], {name: value for name, value in fields.items() if name != "put"})


def check(fields: View) -> None:
    """Raise `Refused` where the fold would reject an event on any document; its fields were read strictly."""
    if "txn" in fields:
        rule = "the members of a transaction are written by POST /v1/{namespace}/transactions"
        raise Refused("bad_field", rule, field="txn", shape=json_text.shape_of(fields["txn"]))
    check_event(envelope_of(fields, NEWEST.limits), NEWEST.limits, NEWEST.operations, NEWEST.fields)


def body_of(fields: View) -> bytes:
    """Return an event's body in canonical bytes. Raises `Refused` where it is too large."""
    body = json_text.dumps(fields)
    if len(body) > EVENT_BYTES_MAX:
        rule, shape = f"at most {EVENT_BYTES_MAX} bytes", f"{len(body)} bytes"
        raise Refused("event_too_large", rule, field="body", shape=shape)
    return body


def strictly(version: Any) -> View:
    return {"base": version, "on_conflict": "reject"}


def is_same_part(recorded: bytes, ours: bytes) -> bool:
    """Compare two of several events, whatever version each was written at."""
    without_base = [
        {name: value for name, value in json_text.loads(body).items() if name not in _BASE_FIELDS}
        for body in (recorded, ours)
    ]
    return json_text.identical(*without_base)


def is_entry_of(entry: Entry | None, publication: Publication) -> bool:
    """Return whether an event of a document's history is what was published."""
    if entry is None or entry.body != publication.body:
        return False
    return entry.headers == validated_headers(publication)
