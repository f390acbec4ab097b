"""Bounds of HTTP requests, with their units. Those of connections are in `refold.wiring.service`."""

from __future__ import annotations

from typing import Final

REQUESTS_MAX: Final = 1_024
"""Requests in work at a time, those that wait for something not counted; more wait for their turn."""

REQUEST_QUEUE_SECONDS: Final = 10.0
"""A request that has not had its turn by then is answered 503."""

WAITING_MAX: Final = 8_192
"""Requests that wait at a time: for the projection, for an outcome, for the rest of their body."""

WAITING_PER_CLIENT_MAX: Final = 4_096
"""The same from one address: half of all, so that one client cannot keep others from waiting."""

VERSION_LOOKS_PER_SECOND_MAX: Final = 1_000
"""Reads of the store, per second, by all requests that wait for a version: while many wait, each looks less often."""

IDLE_SECONDS: Final = 30.0
"""A connection on which no request's headers are complete after this is closed, new or kept alive."""

BODY_SECONDS: Final = 30.0
"""A request whose body makes no progress for so long is ended: 408."""

BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Request bodies in memory while they are being read."""

READ_SECONDS: Final = 5.0
"""How long a read waits for the projection by default."""

WHERE_CHARS_MAX: Final = 10_000
"""A predicate of a list."""

DECIDE_SECONDS: Final = 5.0
"""How long a write may wait for what decides it, whatever `Refold-Wait` says of its outcome."""

VERSION_LOOK_SECONDS: Final = 1.0
"""A read that waits for a version looks at the head this often where no notice of a change came but more is folded."""

DOCS_CACHE_SECONDS: Final = 86_400
"""How long a browser may keep the files of the page of the API."""

EARLY_LAG_EVENTS_MIN: Final = 10_000
"""With fewer events behind, the projection is as quick."""
EARLY_LAG_EVENTS_MAX: Final = 2_000_000
"""With more behind, a pass takes longer than most requests wait: they are answered as pending."""
EARLY_DOCUMENTS_MAX: Final = 64
"""Documents that one pass folds."""
EARLY_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the states that one pass folds, the last state aside."""
EARLY_ANSWERED_MAX: Final = 10_000
"""Documents that were answered and that the projection has not reached; no pass starts with more."""
EARLY_RECORDS_MAX: Final = 500
"""Records that one pass folds before other tasks run (about ten milliseconds)."""
EARLY_PASS_SECONDS: Final = 60.0

CHECK_SECONDS: Final = 2.0
"""A part that has not answered a probe by then is not reachable."""

ANSWER_ITEMS_MAX: Final = 1_000

RECOVER_SECONDS: Final = 10.0
"""After a lost acknowledgement, the projection must catch up with the log within this; else the outcome is unknown."""

WAIT_SECONDS_MAX: Final = 300
"""The longest that a request may ask to wait."""

NOTICE_WAIT_SECONDS: Final = 0.25
"""Without a notice, an outcome is looked up in the store at this interval."""

OUTCOMES_EARLY_MAX: Final = 20_000
"""Outcomes kept that arrived before the append's acknowledgement, or that no request waits for."""

DOCUMENTS_SEEN_MAX: Final = 20_000
"""Documents in the head cache; about 300 bytes each."""

BULK_BATCHES_MAX: Final = 2
"""Batches of one bulk request that are in the log and wait for their outcomes."""

BULK_REQUESTS_MAX: Final = 32
"""Bulk requests served at a time; more wait in a queue."""

BULK_QUEUE_SECONDS: Final = 10.0
"""The longest wait in that queue; then the request is answered 503."""

BULK_ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Answers kept for a client that does not read while it sends; beyond this, no more of its lines are read."""

BULK_STALL_SECONDS: Final = 60
"""A client that reads no answers for so long ends its request."""

DRAIN_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of a body that is too large is read and dropped, so that its sender sees the answer."""

APPEND_ATTEMPTS_MAX: Final = 8
"""Attempts of a strict write that other writes overtake."""

LOST_ATTEMPTS_MAX: Final = 3
"""Attempts to send an event whose acknowledgement is lost each time."""
