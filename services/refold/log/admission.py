"""What may be appended: checked before anything is sent, and the author's headers written as lines.

Used by every adapter of the EventLog port.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from refold.core.errors import Refused
from refold.core.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX, HEADERS_BYTES_MAX
from refold.core.record import check_name
from refold.log import Publication

ATOMIC_BYTES_MAX: Final = 40 * 1024 * 1024
"""Bodies of one atomic append: the largest split write fits, with what its author says in each event."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)


def admit(publication: Publication) -> bytes:
    """Return the author's headers as stored lines, or raise `Refused`."""
    check_name(publication.namespace, "namespace")
    check_name(publication.document, "document")
    if len(publication.body) > EVENT_BYTES_MAX:
        raise _too_large("event_too_large", "body", len(publication.body), EVENT_BYTES_MAX)
    lines = b"".join([_header_line(name, value) for name, value in publication.headers])
    if len(lines) > HEADERS_BYTES_MAX:
        raise _too_large("headers_too_large", "headers", len(lines), HEADERS_BYTES_MAX)
    return lines


def admit_together(publications: Sequence[Publication]) -> list[bytes]:
    """Return each publication's header lines, or raise `Refused` where they cannot go as one."""
    if len(publications) > BATCH_EVENTS_MAX:
        raise _too_many(len(publications), "events", BATCH_EVENTS_MAX)
    lines = [admit(publication) for publication in publications]
    taken = sum(len(publication.body) for publication in publications)
    if taken > ATOMIC_BYTES_MAX:
        raise _too_many(taken, "bytes of bodies", ATOMIC_BYTES_MAX)
    _check_expectations(publications)
    return lines


def _header_line(name: str, value: str) -> bytes:
    if not _HEADER_NAME.fullmatch(name) or name.lower().startswith("nats-"):
        message = "a header's name is one token, and those that begin with Nats- are the broker's"
        raise Refused("bad_header", message, field="headers", shape=repr(name[:64]))
    if "\r" in value or "\n" in value:
        raise Refused("bad_header", "a header's value is one line", field=name, shape=repr(value[:64]))
    try:
        return f"{name}: {value}\r\n".encode()
    except UnicodeEncodeError as error:
        raise Refused(
            "bad_header", "a header's value is UTF-8", field=name, shape=repr(value[:64])
        ) from error


def _check_expectations(publications: Sequence[Publication]) -> None:
    """A document's last event is known only before the batch: whoever comes second cannot expect one."""
    seen: set[tuple[str, str]] = set()
    for publication in publications:
        place = publication.namespace, publication.document
        if publication.expected_last_sequence is not None and place in seen:
            message = "only a document's first event of a batch can be strict"
            raise Refused("bad_batch", message, field="expected_last_sequence", shape="/".join(place))
        seen.add(place)


def _too_large(reason: str, field: str, found: int, bound: int) -> Refused:
    return Refused(reason, f"at most {bound} bytes", field=field, shape=f"{found} bytes")


def _too_many(found: int, unit: str, bound: int) -> Refused:
    return Refused(
        "batch_too_large", f"a batch holds at most {bound} {unit}", field="batch", shape=f"{found} {unit}"
    )
