"""An event on its way to the log: its fields, held to the fold's own rules before anything is published.

Used by the routes that write; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.envelope import Envelope, content_of, envelope_of, open_envelope
from refold.core.errors import Refused
from refold.core.event import check_event, decode
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.record import Record, author_headers, check_name, check_namespace
from refold.log import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that may be published: it carries an id, its author's (`has_own_id`) or one made for it."""

    namespace: str
    document: str
    fields: dict[str, Json]
    headers: tuple[tuple[str, str], ...] = ()
    has_own_id: bool = False

    @property
    def id(self) -> str:
        """Return the event's id."""
        return str(self.fields["id"])

    def publication(self) -> Publication:
        """Return what the log takes. Raises `Refused`, as the fold would reject it."""
        return Publication(
            namespace=self.namespace,
            document=self.document,
            body=checked_body(self.fields),
            headers=self.headers,
        )

    def strict_publication(self, version: int, last_sequence: int) -> Publication:
        """Return what the log takes only while the document's last event is this one."""
        return Publication(
            namespace=self.namespace,
            document=self.document,
            body=checked_body(self.fields | _strictly(version)),
            headers=self.headers,
            expected_last_sequence=last_sequence,
        )

    def is_content_of(self, headers: bytes, body: bytes) -> bool:
        """Tell whether a recorded event is this very one, published before (strictly or not)."""
        try:
            known = open_envelope(author_headers(headers), body, NEWEST.limits)
        except Refused:
            return False
        ours = self.fields
        if known.fields.get("on_conflict") == "reject" and "base" in known.fields:
            ours = ours | _strictly(known.fields["base"])
        return content_of(known) == content_of(Envelope(ours, self.id))


def draft(
    namespace: str,
    document: str,
    fields: dict[str, Json],
    *,
    made_id: str,
    headers: tuple[tuple[str, str], ...] = (),
) -> Draft:
    """Make a draft. Raises `Refused` for names that an author may not write to."""
    check_namespace(namespace)
    check_name(document, "document")
    has_own_id = "id" in fields
    with_id = fields if has_own_id else {**fields, "id": made_id}
    return Draft(
        namespace=namespace, document=document, fields=with_id, headers=headers, has_own_id=has_own_id
    )


def checked_body(fields: dict[str, Json]) -> bytes:
    """Return an event's body in canonical bytes. Raises `Refused` where the fold would reject it unseen."""
    body = canonical.dumps(fields)
    decode(b"", body, NEWEST.limits, NEWEST.operations)
    return body


def checked_line(fields: dict[str, Json]) -> bytes:
    """Do the same for an event that was read whole, not put together here: it is no deeper than what was read."""
    body = canonical.dumps(fields)
    # What is too large is refused by who opens it.
    limits = NEWEST.limits
    is_small = len(body) <= EVENT_BYTES_MAX
    envelope = envelope_of(fields, limits) if is_small else open_envelope(b"", body, limits)
    check_event(envelope, limits, NEWEST.operations)
    return body


def event_id_of(record: Record) -> str | None:
    """Return the id that a recorded event carries."""
    try:
        return open_envelope(author_headers(record.headers), record.body, NEWEST.limits).id
    except Refused:
        return None


def _strictly(version: Any) -> dict[str, Json]:
    return {"base": version, "on_conflict": "reject"}
