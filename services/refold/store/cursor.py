"""The opaque cursor that continues a list of documents.

Used by the store's adapters, so that a cursor of one is a cursor of the other.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, urlsafe_b64encode

from refold.core.errors import Refused
from refold.core.record import check_name


def write_cursor(document: str) -> str:
    """Name the last document that was answered."""
    return urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str:
    """Return the document to go on behind: the empty name, before all others, where there is no cursor."""
    if cursor is None:
        return ""
    try:
        return check_name(
            b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode(), "cursor"
        )
    except (Refused, binascii.Error, ValueError):
        rule = "is not one that a list answered as `next`"
        raise Refused("bad_cursor", rule, field="cursor", shape=repr(cursor[:40])) from None
