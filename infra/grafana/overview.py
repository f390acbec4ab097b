"""The dashboard that is opened first: is anything wrong, who is affected, and which part is it?"""

from panels import (
    API,
    BAD,
    BOUNDED,
    LOGGED,
    OK,
    REQUESTS,
    Board,
    Panel,
    median_and_p99,
    memory_share,
    of,
    over,
    quantile,
    rate,
    rates,
    share,
    total,
)

OPERATIONS, READS, WRITES = "refold-operations", "refold-read-path", "refold-write-path"
NONE = {0: ("none", OK)}

OWNERS = total("refold_shard_owned", by="service,shard")
# A shard whose projectors have ended has no series: it is known from the last day.
KNOWN = f"max by (service,shard) (max_over_time({of('refold_shard_owned')}[1d]))"

IS_EVERYTHING_UP = [
    Panel(
        "Not answering",
        "Targets that Prometheus cannot scrape: the process has ended, hangs, or cannot be reached.",
        [('sum(up{job=~"$job"} == bool 0)', "targets")],
        kind="stat",
        width=4,
        alerts=["RefoldDown", "ProjectorStopped", "UsageStopped"],
        states=NONE,
        more=OPERATIONS,
    ),
    Panel(
        "Not ready",
        "Instances whose own readiness check fails. /readyz says why, /health of the gateway has all checks.",
        [(f"sum({of('refold_ready')} == bool 0)", "instances")],
        kind="stat",
        width=4,
        alerts=["NotReady", "UsageNotReady"],
        states=NONE,
        more=OPERATIONS,
    ),
    Panel(
        "Owners of each shard",
        "Projectors that fold a shard. None: nothing is folded. More than one: fencing has failed.",
        [(f"{OWNERS} or 0 * {KNOWN}", "{{service}} {{shard}}")],
        kind="stat",
        width=4,
        alerts=["NoOwner", "TwoOwners"],
        states={0: ("none", BAD), 1: ("one", OK), 2: ("two", BAD)},
        more=OPERATIONS,
    ),
    Panel(
        "Behind the log",
        "Age of the oldest event that is not committed, in the shard that is furthest behind.",
        [(total("refold_lag_seconds", over="max"), "lag")],
        kind="stat",
        unit="s",
        width=4,
        alerts=["LagSeconds", "LagSecondsLong"],
        more=WRITES,
    ),
    Panel(
        "Alerts of the alert engine",
        "Alerts that fire in `refold up --alerts` or `refold alerts`; the dashboard of operations names them.",
        [(f"sum({of('refold_alert_state')} == bool 2)", "firing")],
        kind="stat",
        width=4,
        states=NONE,
        more=OPERATIONS,
    ),
    Panel(
        "Alerts of Prometheus",
        "Alerts that fire of the rules in infra/prometheus; the dashboard of operations names them.",
        [('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")],
        kind="stat",
        width=4,
        states=NONE,
        more=OPERATIONS,
    ),
]

WHAT_DO_USERS_NOTICE = [
    Panel(
        "Requests by status",
        "All requests of the API. 409, 412 and 422 are answers to a client, not faults of Refold.",
        rates(f"{REQUESTS}_count", API, by="status"),
        unit="reqps",
        is_stacked=True,
        more=READS,
    ),
    Panel(
        "Share of 5xx",
        "503: the projection is behind, or NATS or the store is away. 500 is a defect: see the gateway's log.",
        [(share(f"{REQUESTS}_count", ['status=~"5.."'], [API], by="instance"), "{{instance}}")],
        unit="percentunit",
        alerts=["Errors5xx"],
    ),
    Panel(
        "Duration of requests",
        "Without live streams, which last as long as their clients want.",
        median_and_p99(REQUESTS, *BOUNDED),
        unit="s",
        alerts=["RequestP99"],
    ),
    Panel(
        "Duration of appends",
        "Until NATS has stored an event. Long: the disk of the log is slow, or a replica is.",
        median_and_p99("refold_append_seconds"),
        unit="s",
        alerts=["AppendP99"],
        more=WRITES,
    ),
    Panel(
        "Wait for outcomes",
        "After the append, until a writer that waits has its outcome. Long: the projector is slow or stopped.",
        median_and_p99("refold_outcome_wait_seconds"),
        unit="s",
        more=WRITES,
    ),
    Panel(
        "Behind the log",
        "How old the states are that readers get. Growing: events arrive faster than they are folded.",
        [(total("refold_lag_seconds", by="service,shard", over="max"), "{{service}} {{shard}}")],
        unit="s",
        alerts=["LagSeconds", "LagSecondsLong"],
        more=WRITES,
    ),
]

DOES_DATA_FLOW = [
    Panel(
        "Events logged, folded, committed",
        "Where nothing waits, the lines of each store are as high as the log's.",
        [
            (LOGGED, "logged"),
            (rate("refold_events_folded_total", by="service"), "folded, {{service}}"),
            (rate("refold_commit_events_sum", by="service"), "committed, {{service}}"),
        ],
        unit="eps",
        more=WRITES,
    ),
    Panel(
        "Share of rejected events",
        "Rejections answer an author. Many: an author is broken; `refold rejections` prints them.",
        [(share("refold_events_folded_total", ['outcome="rejected"']), "rejected")],
        unit="percentunit",
        alerts=["RejectedShare"],
        more=WRITES,
    ),
    Panel(
        "Live connections",
        "Open streams. A sudden fall: a gateway, or a proxy before it, has restarted.",
        [(total("refold_live_connections", by="endpoint"), "{{endpoint}}")],
        is_stacked=True,
        more=READS,
    ),
]

IS_THERE_ROOM = [
    Panel(
        "Log",
        "The part of its limit that the log takes. Full: writes are refused.",
        [(f"max({over(of('refold_log_bytes'), of('refold_log_limit_bytes'))})", "used")],
        unit="percentunit",
        width=6,
        alerts=["LogNearlyFull"],
        more=WRITES,
    ),
    Panel(
        "Memory",
        "The part of the process' limit (of its cgroup) that it takes; 0: there is none. Full: the kernel kills it.",
        [(memory_share(), "{{instance}}")],
        unit="percentunit",
        width=6,
        alerts=["Memory"],
        more=OPERATIONS,
    ),
    Panel(
        "Delay of event loops, p99",
        "How late timers run: the process lacks CPU, or something blocks its loop (`refold profile`).",
        [(quantile(0.99, "refold_loop_delay_seconds", by="instance"), "{{instance}}")],
        unit="s",
        width=6,
        alerts=["LoopDelay"],
        more=OPERATIONS,
    ),
    Panel(
        "Connections to stores",
        "The part of the pool that is in use. All: reads wait for each other.",
        [
            (
                over(
                    total("refold_store_connections", 'state="used"', by="instance,store"),
                    total("refold_store_connections", 'state="limit"', by="instance,store"),
                ),
                "{{instance}} {{store}}",
            )
        ],
        unit="percentunit",
        width=6,
        alerts=["PoolExhausted"],
        more=READS,
    ),
]

BOARD = Board(
    name="refold-overview",
    title="Refold / Overview",
    about="Is Refold well, what do its users notice, and which dashboard says more?",
    rows={
        "Is everything up?": IS_EVERYTHING_UP,
        "What do users notice?": WHAT_DO_USERS_NOTICE,
        "Does data flow?": DOES_DATA_FLOW,
        "Is there room?": IS_THERE_ROOM,
    },
)
