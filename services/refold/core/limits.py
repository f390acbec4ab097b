"""The bounds that a rule set states, and those of store, projector and history, each with its unit.

The values of a rule set are in `refold.core.fold`: changing one could alter an outcome, so it needs a new number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# --- Bounds of a rule set ----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound that can alter an outcome. A fold number names them, and a genesis states them by these names."""

    depth: int
    """Nesting of a state: a scalar is 0, `[]` is 1, `[[]]` is 2."""
    operations: int
    """Operations of one patch."""
    state_bytes: int
    """Canonical bytes of a state, checked after every operation."""
    copy_bytes: int
    """Canonical bytes that one event's `copy` and `move` operations may carry in all."""
    shifts: int
    """Array elements that the insertions and removals of one event may push aside in all."""
    event_bytes: int
    """Body of one event."""
    headers_bytes: int
    """An author's headers: all whose names do not begin with `Nats-`."""
    text_depth: int
    """Nesting of an event's JSON text: more than a state may have, less than orjson can write (254)."""
    name_chars: int
    """A namespace or a document id."""
    id_chars: int
    """An event's own id."""
    id_window_ids: int
    """An id is looked up among so many of its document's last events that carried one."""
    id_window_events: int
    """An id is looked up within so many of its document's last events of any kind."""
    occurred_ahead_nanoseconds: int
    """`occurred_at` may be this far after recorded time."""


UNBOUNDED: Final = Limits(**dict.fromkeys(Limits.__dataclass_fields__, 2**62))
"""For events that were accepted once, whatever the rules were: their changes apply again."""

# --- The services: free to change ---------------------------------------------------------------------

PAGE_EVENTS_MAX: Final = 128
"""Events in one page."""

PAGE_BYTES_MIN: Final = 64 * 1024
"""A page is also full at this many bytes of events, or at its snapshot's size if that is larger."""

RUN_EVENTS_MIN: Final = 8
"""So many events of one document in one commit, and its snapshot's size in bytes, are a page at once: no journal."""

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A list or a history answers at most so much, then `next`."""

REPLY_AGE_NANOSECONDS: Final = 60 * 1_000_000_000
"""An outcome is sent to `Refold-Reply` only for events younger than this by the broker's clock."""

NOTICE_BYTES_MAX: Final = 2 * 1024 * 1024 - 64 * 1024
"""A change notice over this goes without its patch."""

RECORDS_FOLDED_MAX: Final = 500
"""Records folded before other tasks get their turn (about ten milliseconds)."""

STORE_READERS_MAX: Final = 8
"""Connections that one process reads Postgres through."""

READS_TOGETHER_MAX: Final = 64
READ_TOGETHER_BYTES_MAX: Final = 64 * 1024
"""So many heads are read by one statement, each with no more bytes as it is stored: a larger one is read alone."""
READ_STATEMENTS_MAX: Final = 2
"""Such statements on their way at once; the reads that come meanwhile go with the next."""

STORE_CONNECT_SECONDS: Final = 10
STORE_COMMAND_SECONDS: Final = 60
"""One statement, or one COPY, of the store."""

STORE_CONNECTION_WAIT_SECONDS: Final = 10
"""How long a read waits for a connection that is free."""

STORE_CLOSE_SECONDS: Final = 5
"""Reads in flight may end within this when a store is closed."""

STATE_LAG_BYTES: Final = 32 * 1024
"""A state of more canonical bytes is not written to its row with every commit: the row's may lag, …"""
STATE_LAG_SECONDS: Final = 1.0
"""… for no longer than this. Reads fold what is missing."""

STORE_SYNC_SECONDS: Final = 1.0
"""A commit waits for the disk at least so often: what a power cut can take from Postgres."""

STORE_WHERE_SECONDS: Final = 5.0
"""A search by `where` may run so long."""

HISTORY_SCAN_MAX: Final = 20_000
"""Changes that one answer of a history looks at in search of those that touched a path."""

PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Events folded and not yet committed, with what they cost in memory."""

COMMIT_SECONDS: Final = 2.0
"""A live commit that takes longer lets the next ones be smaller. A replay's may take as long as they do."""

STORE_FEW_EVENTS_MAX: Final = 200
"""So many events of a commit without pages are written by one statement; more go through COPY."""

LIST_BATCH_DOCUMENTS_MAX: Final = 256
LIST_BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""A list as of a point reads so many documents in one statement, or so many bytes of states and pages; …"""
LIST_BATCHES_MAX: Final = 64
"""… and looks through so many batches for one answer."""

STORE_SEARCHES_MAX: Final = 2
"""Searches by `where` that one process runs at once: each costs a core, and memory as long as it runs."""

ABOUT_CHARS_MAX: Final = 256
"""What a rejection's row shows of each text that its author gave; the event itself is kept whole."""

SHARD_SIGN_SECONDS: Final = 1.0
"""A shard's owner shows its store this often that it lives; …"""
SHARD_LEASE_SECONDS: Final = 5.0
"""… and loses the shard to whoever asks for it after a silence so long: it is stopped, or its machine is gone."""

SHARD_LEASE_SECONDS_MAX: Final = 60.0
"""Who lost a shard so himself waits twice as long before he takes it, up to this: slow is not dead."""

VERIFY_LOCATED_MAX: Final = 100
"""Documents that differ from the log whose events are named one by one; of others only the name is told."""

REBUILD_LOCK_SECONDS: Final = 5
"""A rebuild waits at most so long for the live projection to stand still; …"""
REBUILD_HOLD_SECONDS: Final = 10.0
"""… holds it no longer than this, …"""
REBUILD_ATTEMPTS_MAX: Final = 5
"""… and tries so often."""

REBUILD_NEAR_EVENTS: Final = 2_000
"""Behind by no more than this, a rebuild compares; before that it goes on catching up."""
