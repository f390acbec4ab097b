"""Bounds of this package, each with its unit.

Used by its modules; free to change between releases.
"""

from __future__ import annotations

from typing import Final

PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""The broker's `max_payload`: more makes it cut the connection."""

BATCH_EVENTS_MAX: Final = 1_000
"""Messages in one atomic batch (the server's own bound)."""

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
