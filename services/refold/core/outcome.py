"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.document import KINDS, STATUSES, First, Kind, Outcome, Status
from refold.core.history import Entry

__all__ = ["KINDS", "STATUSES", "Entry", "First", "Kind", "Outcome", "Status"]
