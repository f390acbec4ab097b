"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.dedup import (
    DIGEST_BYTES,
    admit,
    content_digest,
    first_outcome,
    id_digest,
    pack_identities,
    recall,
    remember,
    unpack_identities,
)

__all__ = [
    "DIGEST_BYTES",
    "admit",
    "content_digest",
    "first_outcome",
    "id_digest",
    "pack_identities",
    "recall",
    "remember",
    "unpack_identities",
]
