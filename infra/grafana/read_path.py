"""The dashboard of reads: requests, cache, stores, live streams. Why is a read slow, old, or refused?"""

from panels import (
    BAD,
    OK,
    READS,
    REQUESTS,
    REQUESTS_IN_WORK,
    STORE,
    WARNING,
    Board,
    Panel,
    increase,
    increases,
    mean_and_p99,
    median_and_p99,
    of,
    over,
    quantile,
    rate,
    rates,
    total,
)

REQUEST = [
    Panel(
        "Requests that read",
        "By route, without live streams.",
        [(rate(f"{REQUESTS}_count", *READS, by="route"), "{{route}}")],
        unit="reqps",
    ),
    Panel(
        "Answers to reads",
        "304: the client has it. 404: no such document. 503 `projection_behind`: see the write path.",
        rates(f"{REQUESTS}_count", *READS, by="status"),
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "Duration of reads",
        "Reads that wait for a version (`min_version`, `wait`) are among them.",
        median_and_p99(REQUESTS, *READS),
        unit="s",
        alerts=["RequestP99"],
    ),
    Panel(
        "Duration of reads by route, p99",
        "Which kind of read is slow.",
        [(quantile(0.99, REQUESTS, *READS, by="route"), "{{route}}")],
        unit="s",
        width=16,
        alerts=["RequestP99"],
    ),
    REQUESTS_IN_WORK,
]

HITS = rate("refold_cache_hits_total", by="cache", window="$window")
MISSES = rate("refold_cache_misses_total", by="cache", window="$window")

# The two are measured at different moments: without a bound the difference may be below 0.
LAST = f"scalar(max({of('refold_log_last_sequence')}))"
FOLDED = total("refold_store_folded_sequence", STORE, by="store", over="max")

CACHE = [
    Panel(
        "Hit rate of caches",
        "Reads that needed no store. Falls: more documents are read than the cache holds.",
        [(over(HITS, f"({HITS} + {MISSES})"), "{{cache}}")],
        unit="percentunit",
    ),
    Panel(
        "Hits and misses",
        "Reads with and without a state in the cache.",
        [
            (rate("refold_cache_hits_total", by="cache"), "{{cache}} hits"),
            (rate("refold_cache_misses_total", by="cache"), "{{cache}} misses"),
        ],
        unit="rps",
    ),
    Panel(
        "Memory of caches",
        "REFOLD_CACHE_STATES_BYTES is the limit of the cache of states.",
        [(total("refold_cache_bytes", by="instance,cache"), "{{instance}} {{cache}}")],
        unit="bytes",
    ),
]

STORES = [
    Panel(
        "Reads of the store",
        "Queries by method, after the cache and after equal reads are put together.",
        rates("refold_store_read_seconds_count", by="method"),
        unit="rps",
    ),
    Panel(
        "Duration of store reads, p99",
        "Long: the store is slow, or its pool is empty.",
        [(quantile(0.99, "refold_store_read_seconds", by="method"), "{{method}}")],
        unit="s",
    ),
    Panel(
        "Errors of the store",
        "Failed operations in the window, by code.",
        [(increase("refold_store_errors_total", by="method,code"), "{{method}} {{code}}")],
    ),
    Panel(
        "Connections to stores",
        "`used` at the `limit`: reads wait for each other.",
        [(total("refold_store_connections", by="service,state"), "{{service}} {{state}}")],
        related=["PoolExhausted"],
    ),
    Panel(
        "Breakers of several stores",
        "Open: the store has failed, and reads go to the next one.",
        [(of("refold_store_breaker_state", STORE), "{{instance}} {{store}}")],
        kind="state-timeline",
        alerts=["BreakerOpen"],
        states={0: ("closed", OK), 1: ("half open", WARNING), 2: ("open", BAD)},
    ),
    Panel(
        "Breakers opened and closed",
        "In the window. Often: the store is at its limit rather than away.",
        [
            (increase("refold_store_breaker_openings_total", STORE, by="store"), "{{store}} opened"),
            (increase("refold_store_breaker_closings_total", STORE, by="store"), "{{store}} closed"),
        ],
    ),
    Panel(
        "Reads by store",
        "Which of several stores answers. Not the first one: it has failed, or is behind.",
        rates("refold_store_reads_total", STORE, by="store"),
        unit="rps",
        width=12,
        is_stacked=True,
    ),
    Panel(
        "Stores behind the log",
        "Events that each of several stores is not known to have, as the gateways see it.",
        [(f"clamp_min({LAST} - {FOLDED}, 0)", "{{store}}")],
        width=12,
    ),
]

LIVE = [
    Panel(
        "Live connections",
        "Open streams. A sudden fall: a gateway, or a proxy before it, has restarted.",
        [(total("refold_live_connections", by="endpoint"), "{{endpoint}}")],
        width=6,
        is_stacked=True,
    ),
    Panel(
        "Subscriptions",
        "By what they are sent.",
        [(total("refold_live_subscriptions", by="mode"), "{{mode}}")],
        width=6,
        is_stacked=True,
    ),
    Panel(
        "Messages sent",
        "`merged` have several changes: their reader is slower than the writers.",
        [(rate("refold_live_frames_total"), "all"), (rate("refold_live_merged_total"), "merged")],
        unit="mps",
        width=6,
    ),
    Panel(
        "Bytes sent",
        "To all live connections.",
        [(rate("refold_live_bytes_total"), "bytes")],
        unit="Bps",
        width=6,
    ),
    Panel(
        "Duration of a pass",
        "Over the subscribers of one query, during which the event loop does nothing else.",
        mean_and_p99("refold_live_pass_seconds"),
        unit="s",
        width=6,
    ),
    Panel(
        "Snapshots sent",
        "Whole states instead of changes in the window. Many: clients are too slow, or return too late.",
        increases("refold_live_snapshots_total", by="why"),
        width=6,
    ),
    Panel(
        "Streams ended",
        "In the window, by reason; by `age` they end after an hour, and their clients return.",
        increases("refold_live_bye_total", by="reason"),
        width=6,
    ),
    Panel(
        "Versions behind",
        "The most that a watched document lacks. Stays above 0: notices are lost.",
        [(total("refold_live_behind_max", by="instance", over="max"), "{{instance}}")],
        width=6,
    ),
    Panel(
        "Lost notices",
        "In the window: gaps filled from history, and documents that only an audit found behind.",
        [
            (increase("refold_live_gaps_total"), "gaps filled"),
            (increase("refold_live_audit_behind_total"), "found by an audit"),
        ],
        width=12,
    ),
    Panel(
        "Audits",
        "Comparisons of the watched documents with the store in the window, by reason.",
        increases("refold_live_audits_total", by="why"),
        width=12,
    ),
]

BOARD = Board(
    name="refold-read-path",
    title="Refold / Read path",
    about="Reads and live streams: why is one slow, old, or refused?",
    variables={"store": "refold_store_breaker_state"},
    rows={
        "1. Request: what do readers get?": REQUEST,
        "2. Cache: is the store spared?": CACHE,
        "3. Stores: do they answer, which one does?": STORES,
        "4. Live: do streams get every change in time?": LIVE,
    },
)
