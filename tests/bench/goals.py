"""The goals that the report shows beside what it measures: of a fast machine, and of one three times as slow.

The fast one has two Zen 5 cores; which of the two a machine is compared with is decided by its calibration unit.
"""

from __future__ import annotations

from typing import Final

from bench.report import Goal

REBUILD: Final = Goal(value=100_000, slow=33_000)
REBUILD_CPU: Final = Goal(value=18, slow=54, is_upper=True)
"""Microseconds an event, over all processes."""

LIVE: Final = Goal(value=25_000, slow=8_000)
LIVE_LAG: Final = Goal(value=1, is_upper=True, is_each=True)
"""Seconds, in every round."""

OUTCOME_NATS: Final = {
    "p50": Goal(value=1, slow=3, is_upper=True),
    "p99": Goal(value=5, slow=15, is_upper=True),
}
OUTCOME_HTTP: Final = {
    "p50": Goal(value=1.5, slow=5, is_upper=True),
    "p99": Goal(value=10, slow=30, is_upper=True),
}
WRITERS: Final = {
    1: Goal(value=1_000, slow=333),
    8: Goal(value=2_700, slow=900),
    64: Goal(value=4_500, slow=1_500),
}
"""Writes a second through the SDK, by the number of writers; each waits for the fold."""

BULK: Final = Goal(value=20_000, slow=7_000)
MIDDLE_VERSION: Final = Goal(value=1_700, slow=567)
VERSIONS: Final = Goal(value=6_000, slow=2_000)
LATEST: Final = Goal(value=15_000, slow=5_000)
TRAVEL: Final = {"p99": Goal(value=5, is_upper=True)}
MEMORY: Final = Goal(value=1_024, is_upper=True)
"""MiB of the projector."""

FANOUT_SHARE: Final = Goal(value=1.5, is_upper=True)
"""Of a bare loop that writes the same bytes to 10,000 sockets: the delay's p99 (where over 100 ms) and the CPU."""

SUBSCRIBER_KIBIBYTES: Final = Goal(value=40, is_upper=True)
HOT_HEAD: Final = Goal(value=500, is_upper=True)
ONE_CORE: Final = Goal(value=1, is_upper=True)
GAUGES_SHARE: Final = Goal(value=3, is_upper=True)
STOPPED_MEBIBYTES: Final = Goal(value=0.3, is_upper=True)
STOPPED_GONE: Final = Goal(value=75, is_upper=True)
"""Seconds after which the kernel has ended the connection of a client that reads nothing."""

STORE_SAVED: Final = Goal(value=40)
CACHE_HITS: Final = Goal(value=80)
"""Percent: the lower ends of what was promised, 40 to 80 and 80 to 95."""

CACHE_RESIDENT: Final = Goal(value=12, is_upper=True)
"""MB that a process grows by with a cache of 10 MB: a fifth more."""
