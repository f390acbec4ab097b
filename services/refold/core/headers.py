"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.envelope import (
    CLOUD_EVENT,
    JSON_PATCH,
    MERGE_PATCH,
    cloud_attributes,
    fields_of,
    media_type,
    read_headers,
)

__all__ = [
    "CLOUD_EVENT",
    "JSON_PATCH",
    "MERGE_PATCH",
    "cloud_attributes",
    "fields_of",
    "media_type",
    "read_headers",
]
