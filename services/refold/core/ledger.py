"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.log_digest import EMPTY_DIGEST as NOTHING
from refold.core.log_digest import UNROUTABLE as NOWHERE
from refold.core.log_digest import LogDigest as Ledger
from refold.core.log_digest import digest_of

__all__ = ["NOTHING", "NOWHERE", "Ledger", "digest_of"]
