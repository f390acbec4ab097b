"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.json_text import Json, depth, dumps, equal, identical, loads, reread, size, size_within

__all__ = ["Json", "depth", "dumps", "equal", "identical", "loads", "reread", "size", "size_within"]
