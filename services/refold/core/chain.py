"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.stream import chain_link as link
from refold.core.stream import chain_seed as seed

__all__ = ["link", "seed"]
