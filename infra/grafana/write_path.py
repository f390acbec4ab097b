"""The dashboard of a write: request, append, log, fold, commit, in this order. Where does it wait or fail?"""

from dataclasses import replace

from panels import (
    LOGGED,
    NAMESPACE,
    REQUESTS,
    REQUESTS_IN_WORK,
    SHARD,
    WRITES,
    Board,
    Panel,
    increase,
    increases,
    mean_and_p99,
    median_and_p99,
    of,
    rate,
    rates,
    total,
)

REQUEST = [
    Panel(
        "Requests that write",
        "By route. Authors that publish to NATS themselves are seen from the log on.",
        [(rate(f"{REQUESTS}_count", *WRITES, by="method,route"), "{{method}} {{route}}")],
        unit="reqps",
    ),
    Panel(
        "Answers to writes",
        "412: `if_version` was old. 409, 422: rejected. 202: the outcome was not known in time. 503: nothing written.",
        rates(f"{REQUESTS}_count", *WRITES, by="status"),
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "Duration of writes",
        "From the request to the answer: the append and, where a writer waits, its outcome.",
        median_and_p99(REQUESTS, *WRITES),
        unit="s",
        alerts=["RequestP99"],
    ),
    replace(REQUESTS_IN_WORK, width=6),
    Panel(
        "Strict writes",
        "Writes that wait for what was written before (`if_version`, delete), by result.",
        rates("refold_strict_total", by="result"),
        unit="wps",
        width=6,
        is_stacked=True,
    ),
    Panel(
        "Lines of bulk requests",
        "By the outcome of each line, in the chosen namespaces.",
        rates("refold_bulk_lines_total", NAMESPACE, by="status"),
        unit="eps",
        width=6,
        is_stacked=True,
    ),
    Panel(
        "Waits for outcomes",
        "How the wait of a writer ended. `looked_up`: the notice was lost. `202`: the projector is behind.",
        rates("refold_outcome_wait_seconds_count", by="how"),
        unit="reqps",
        width=6,
        is_stacked=True,
    ),
]

APPEND = [
    Panel(
        "Appends",
        "Batches that NATS has stored, and events in them.",
        [
            (rate("refold_append_seconds_count"), "batches"),
            (rate("refold_append_batch_events_sum"), "events"),
        ],
        unit="eps",
        width=6,
    ),
    Panel(
        "Duration of appends",
        "Until NATS has stored an event. Long: the disk of the log is slow, or a replica is.",
        median_and_p99("refold_append_seconds"),
        unit="s",
        width=6,
        alerts=["AppendP99"],
    ),
    Panel(
        "Events of an append",
        "Events that are appended together. Larger batches under load keep the duration low.",
        mean_and_p99("refold_append_batch_events"),
        width=6,
    ),
    Panel(
        "Lost acknowledgements",
        "Appends without an answer from NATS in the window, by whether the event was then found in the log.",
        increases("refold_append_lost_total", by="found"),
        width=6,
    ),
]

SIZE, LIMIT = of("refold_log_bytes"), of("refold_log_limit_bytes")

LOG = [
    Panel("Events logged", "How fast the log grows, by all writers.", [(LOGGED, "events")], unit="eps"),
    Panel(
        "Size of the log",
        "Bytes that it takes, and the limit at which writes are refused.",
        [
            (total("refold_log_bytes", over="max"), "log"),
            (total("refold_log_limit_bytes", over="max"), "limit"),
        ],
        unit="bytes",
        related=["LogNearlyFull"],
    ),
    Panel(
        "Log is full in",
        "At the pace of the last hour; nothing where it does not grow.",
        [(f"min(({LIMIT} - {SIZE}) / (deriv({SIZE}[1h]) > 0))", "at this pace")],
        unit="s",
        related=["LogNearlyFull"],
    ),
    Panel(
        "Documents in the log",
        "Subjects: one for each document that ever was.",
        [(total("refold_log_subjects", over="max"), "documents")],
        width=12,
    ),
    Panel(
        "Replicas of the log",
        "Servers that have a copy. One that lags or is offline: the next failure stops writes.",
        [(total("refold_log_replicas", by="state", over="max"), "{{state}}")],
        width=12,
        related=["ReplicaBehind"],
        is_stacked=True,
    ),
]

FOLD = [
    Panel(
        "Events folded",
        "By outcome, in the chosen namespaces.",
        rates("refold_events_folded_total", NAMESPACE, by="outcome"),
        unit="eps",
        is_stacked=True,
    ),
    Panel(
        "Busiest namespaces",
        "Events folded; the first 50 namespaces have a name, the others are `_other`.",
        [(f"topk(10, {rate('refold_events_folded_total', NAMESPACE, by='namespace')})", "{{namespace}}")],
        unit="eps",
    ),
    Panel(
        "Rejections",
        "By reason. `refold rejections` prints the events.",
        [
            (
                rate("refold_events_rejected_total", NAMESPACE, by="namespace,reason"),
                "{{namespace}} {{reason}}",
            )
        ],
        unit="eps",
        is_stacked=True,
    ),
    Panel(
        "Conflicts",
        "Events whose document had changed since their base, by strategy and what came of it.",
        [(rate("refold_conflicts_total", NAMESPACE, by="strategy,status"), "{{strategy}} {{status}}")],
        unit="eps",
        is_stacked=True,
    ),
    Panel(
        "Time spent folding",
        "The part of one core that folding takes. Near 100 %: the projector can do no more; shard the log.",
        [(rate("refold_fold_seconds_sum", by="instance"), "{{instance}}")],
        unit="percentunit",
    ),
    Panel(
        "Duration of a fold",
        "Of a slice of up to 500 events, during which the event loop does nothing else.",
        mean_and_p99("refold_fold_seconds"),
        unit="s",
    ),
    Panel(
        "Behind the log: events",
        "Events in the log that are not committed.",
        [(total("refold_lag_events", SHARD, by="service,shard", over="max"), "{{service}} {{shard}}")],
        width=6,
    ),
    Panel(
        "Behind the log: seconds",
        "Age of the oldest of these events.",
        [(total("refold_lag_seconds", SHARD, by="service,shard", over="max"), "{{service}} {{shard}}")],
        unit="s",
        width=6,
        alerts=["LagSeconds", "LagSecondsLong"],
    ),
    Panel(
        "Folded, not committed: events",
        "Events that wait for the next commit. At its bound, folding waits for the store.",
        [(total("refold_pending_events", by="instance"), "{{instance}}")],
        width=6,
    ),
    Panel(
        "Folded, not committed: bytes",
        "What these events will write.",
        [(total("refold_pending_bytes", by="instance"), "{{instance}}")],
        unit="bytes",
        width=6,
    ),
]

COMMIT = [
    Panel(
        "Commits",
        "`single`: one statement. `copy`: many rows. `sync`: on the disk before it counts.",
        rates("refold_commits_total", by="kind"),
        unit="wps",
        width=6,
    ),
    Panel(
        "Duration of commits",
        "Long: the store is slow. While a commit runs, the next is collected, so that commits grow instead.",
        median_and_p99("refold_commit_seconds"),
        unit="s",
        width=6,
    ),
    Panel("Events of a commit", "Grows under load.", mean_and_p99("refold_commit_events"), width=6),
    Panel(
        "Documents of a commit",
        "Fewer than its events where documents change again and again.",
        mean_and_p99("refold_commit_documents"),
        width=6,
    ),
    Panel(
        "Bytes of a commit",
        "What one commit writes to the store.",
        mean_and_p99("refold_commit_bytes"),
        unit="bytes",
        width=6,
    ),
    Panel(
        "Pages closed",
        "Pages of history that were full, in the window; they are compressed and never change.",
        [(increase("refold_pages_cut_total"), "pages")],
        width=6,
    ),
    Panel(
        "Documents with an older stored state",
        "Large states that are written later than their history; readers fold the rest.",
        [(total("refold_state_lag_documents", by="instance"), "{{instance}}")],
        width=6,
    ),
    Panel(
        "Errors of the store",
        "Failed operations in the window, by code. Transient ones are tried again from the last commit.",
        [(increase("refold_store_errors_total", by="method,code"), "{{method}} {{code}}")],
        width=6,
    ),
]

BOARD = Board(
    name="refold-write-path",
    title="Refold / Write path",
    about="A write from the request to the commit: where does it wait, where does it fail?",
    variables={"namespace": "refold_events_folded_total", "shard": "refold_lag_seconds"},
    rows={
        "1. Request: what do writers get?": REQUEST,
        "2. Append: is it durable in time?": APPEND,
        "3. Log: does it grow, is it copied?": LOG,
        "4. Fold: what becomes of events, does the projector keep up?": FOLD,
        "5. Commit: does the store keep up?": COMMIT,
    },
)
