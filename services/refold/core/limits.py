"""Every bound of the fold and of the services, named, with its unit.

The first group belongs to fold 1: changing one could alter an outcome, so it needs a new fold number.
"""

from __future__ import annotations

from typing import Final

# --- Fold 1: part of the log's meaning ---------------------------------------------------------------

FOLD_NEWEST: Final = 1
PARTITIONS: Final = 64

DEPTH_MAX: Final = 128
"""Nesting of a state: a scalar is 0, `[]` is 1, `[[]]` is 2."""

OPERATIONS_MAX: Final = 10_000
"""Operations of one patch."""

STATE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Canonical bytes of a state, checked after every operation."""

COPY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Canonical bytes that the `copy` operations of one event may write in all: a copy bomb is a rejection."""

EVENT_BYTES_MAX: Final = 1024 * 1024
"""Body of one event."""

HEADERS_BYTES_MAX: Final = 32 * 1024
"""An author's headers: all whose names do not begin with `Nats-`."""

NAME_CHARS_MAX: Final = 128
"""A namespace or a document id."""

ID_CHARS_MAX: Final = 128
"""An event's own id."""

ID_WINDOW_IDS: Final = 1_000
"""An id is looked for among so many of its document's last events that carried one, …"""

ID_WINDOW_EVENTS: Final = 10_000
"""… within so many of its last events."""

DETAIL_CHARS_MAX: Final = 500
"""A rejection's detail, for people."""

OCCURRED_AHEAD_NANOSECONDS: Final = 300 * 1_000_000_000
"""`occurred_at` may lie this far after recorded time."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
TIME_MIN_NANOSECONDS: Final = -(2**63)
TIME_MAX_NANOSECONDS: Final = 2**63 - 1

TEXT_DEPTH_MAX: Final = 160
"""Nesting of any JSON text that is read: more than a state may have, less than orjson can write (254)."""

SHIFTS_MAX: Final = 256 * 1024 * 1024
"""Array elements that the insertions and removals of one event may push aside in all."""

# --- The services: free to change ---------------------------------------------------------------------

PAGE_EVENTS_MAX: Final = 128
"""Events in one page."""

PAGE_BYTES_MIN: Final = 64 * 1024
"""A page is also full at this many bytes of events, or at its snapshot's size if that is larger."""

PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""The broker's `max_payload`: more makes it cut the connection."""

REPLY_AGE_NANOSECONDS: Final = 60 * 1_000_000_000
"""An outcome is sent to `Refold-Reply` only for events younger than this by the broker's clock."""

BATCH_EVENTS_MAX: Final = 1_000
"""Messages in one atomic batch (the server's own bound)."""

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024

ANSWER_ITEMS_MAX: Final = 1_000
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A list or a history answers at most so much, then `next`."""

CHILD_START_SECONDS: Final = 300
"""An embedded server is ready by then: a long log is recovered first, a crashed database replayed."""

CHILD_STOP_SECONDS: Final = 30
"""An embedded server ends by itself within this, else it is killed."""

CHILD_POLL_SECONDS: Final = 0.01
"""How often a starting or ending child is looked at."""

CONNECT_SECONDS: Final = 5
"""One attempt to connect to a server that is starting."""

CHILD_LOG_TAIL_BYTES: Final = 2_000
"""How much of a failed child's log its error shows."""

PORT_ATTEMPTS_MAX: Final = 5
"""A free port may be taken by another before our child has it: so many are tried."""

DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024
"""The embedded log refuses events when no more than this is left on its disk, …"""

DISK_RESERVE_SHARE: Final = 0.05
"""… or no more than this share of it, where that is less."""

LOG_UNCOUNTED_SHARE: Final = 0.05
"""A log larger than this share of the disk's room is counted exactly before its bound is set."""

SHARED_BUFFERS_BYTES_MAX: Final = 256 * 1024 * 1024
"""The embedded database's page cache; less where memory is small."""

SUBJECTS_CACHED_MAX: Final = 100_000
"""Subjects whose partition and names a shard remembers."""

NOTICE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""A change notice over this goes without its patch."""

RECORDS_FOLDED_MAX: Final = 500
"""Records folded before other tasks get their turn (about ten milliseconds)."""

DIFF_EDITS_MAX: Final = 128
"""A diff looks for the very best alignment of two arrays only up to so many insertions and removals."""
