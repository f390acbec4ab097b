"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.json_text import shape_of, shortened

__all__ = ["shape_of", "shortened"]
