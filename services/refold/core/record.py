"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.stream import (
    FOLD_DOCUMENT,
    GENESIS_DOCUMENT,
    SYSTEM_DOCUMENTS,
    SYSTEM_NAMESPACE,
    Record,
    author_headers,
    check_name,
    check_namespace,
    partition_of,
    stored_subject,
)
from refold.core.stream import Route as Place
from refold.core.stream import route as place

__all__ = [
    "FOLD_DOCUMENT",
    "GENESIS_DOCUMENT",
    "SYSTEM_DOCUMENTS",
    "SYSTEM_NAMESPACE",
    "Place",
    "Record",
    "author_headers",
    "check_name",
    "check_namespace",
    "partition_of",
    "place",
    "stored_subject",
]
