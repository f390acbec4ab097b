"""The dashboard of the processes: what runs, who owns the shards, resources, connections, alerts, traces."""

from panels import (
    BAD,
    OK,
    ON_OFF,
    QUIET,
    SHARD,
    WARNING,
    Board,
    Panel,
    increase,
    increases,
    memory_share,
    of,
    over,
    quantile,
    rate,
    rates,
    total,
)

STAGES = {"starting": "blue", "standby": QUIET, "working": OK, "waiting": WARNING, "stopped": BAD}
STAGE = " + ".join(
    f"{number} * " + total("refold_stage", f'stage="{name}"', by="service,instance")
    for number, name in enumerate(STAGES)
)
"""One number for the stage that is 1."""

INSTANCES = [
    Panel(
        "What runs",
        "Versions differ only during an upgrade.",
        [(of("refold_build_info"), "")],
        kind="table",
        width=12,
        columns=["service", "instance", "version", "fold_newest", "migration"],
    ),
    Panel(
        "Running for",
        "Short again and again: a process that is restarted; the end of its log says why.",
        [(f"time() - {of('process_start_time_seconds')}", "{{service}} {{instance}}")],
        kind="stat",
        unit="dtdurations",
        width=12,
        height=7,
    ),
    Panel(
        "Ready",
        "The readiness check of each instance.",
        [(of("refold_ready"), "{{service}} {{instance}}")],
        kind="state-timeline",
        width=12,
        alerts=["NotReady", "UsageNotReady"],
        states=ON_OFF,
    ),
    Panel(
        "Stage of projectors",
        "`standby`: another one owns the shard. `waiting`: NATS or the store is away. `stopped`: a person is needed.",
        [(STAGE, "{{service}} {{instance}}")],
        kind="state-timeline",
        width=12,
        alerts=["ProjectorStopped"],
        states=dict(enumerate(STAGES.items())),
    ),
]

OWNERSHIP = [
    Panel(
        "Owner of each shard",
        "Which projector folds; a change is a takeover.",
        [(of("refold_shard_owned", SHARD), "{{service}} {{instance}} {{shard}}")],
        kind="state-timeline",
        width=12,
        alerts=["NoOwner", "TwoOwners"],
        states={1: ("owner", OK), 0: ("standby", QUIET)},
    ),
    Panel(
        "Takeovers",
        "Shards taken in the window: the `first` time, from another projector (`standby`), or `again` after a loss.",
        increases("refold_takeovers_total", by="why"),
        width=12,
    ),
    Panel(
        "Age of the last check of the log",
        "The owner compares the log with what it has folded. No check is silence, not health.",
        [
            (
                f"time() - ({total('refold_log_integrity_checked_timestamp_seconds', by='service', over='max')} > 0)",
                "{{service}}",
            )
        ],
        unit="s",
        width=12,
        alerts=["LogIntegritySilent"],
    ),
    Panel(
        "Faults of the log",
        "Not 0: the log is not the one that was folded. Stop, and read the runbook before anything else.",
        [(total("refold_log_integrity_faults_total", by="service"), "{{service}}")],
        width=12,
        alerts=["LogIntegrityFault"],
    ),
]

PROCESSES = [
    Panel(
        "CPU",
        "Cores that each process takes; a gateway or a projector can take one.",
        [(rate("process_cpu_seconds_total", by="service,instance"), "{{service}} {{instance}}")],
        unit="percentunit",
    ),
    Panel(
        "Memory",
        "Resident memory.",
        [(of("process_resident_memory_bytes"), "{{service}} {{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Memory in parts of its limit",
        "Beyond the limit (of its cgroup) the kernel kills the process. 0: it has none.",
        [(memory_share(), "{{service}} {{instance}}")],
        unit="percentunit",
        alerts=["Memory"],
    ),
    Panel(
        "Delay of event loops, p99",
        "How late timers run: the process lacks CPU, or something blocks its loop (`refold profile`).",
        [(quantile(0.99, "refold_loop_delay_seconds", by="service,instance"), "{{service}} {{instance}}")],
        unit="s",
        width=6,
        alerts=["LoopDelay"],
    ),
    Panel(
        "Open files in parts of the limit",
        "Each connection is one. All: no further client can connect.",
        [(over(of("process_open_fds"), of("process_max_fds")), "{{service}} {{instance}}")],
        unit="percentunit",
        width=6,
    ),
    Panel(
        "Garbage collections",
        "Of generation 2, which look through all objects, in the window.",
        [
            (
                increase("python_gc_collections_total", 'generation="2"', by="service,instance"),
                "{{service}} {{instance}}",
            )
        ],
        width=6,
    ),
    Panel(
        "Objects that cannot be collected",
        "Grows: a leak.",
        [(total("python_gc_objects_uncollectable_total", by="service,instance"), "{{service}} {{instance}}")],
        width=6,
    ),
]

NATS = [
    Panel(
        "Connected to NATS",
        "The connection of each instance.",
        [(of("refold_broker_connected"), "{{service}} {{instance}}")],
        kind="state-timeline",
        width=6,
        states=ON_OFF,
    ),
    Panel(
        "Reconnects",
        "In the window. All instances at once: the server has restarted; one: its network.",
        [(increase("refold_broker_reconnects_total", by="service,instance"), "{{service}} {{instance}}")],
        width=6,
    ),
    Panel(
        "Offset to the clock of NATS",
        "Events have the time of NATS: with another clock here, lag in seconds is wrong.",
        [(f"abs({of('refold_broker_clock_offset_seconds')})", "{{service}} {{instance}}")],
        unit="s",
        width=6,
    ),
    Panel(
        "Changes of the log's leader",
        "In the window. Often: the servers of the cluster lose each other.",
        [(f"max(increase({of('refold_log_leader_changes_total')}[$window]))", "changes")],
        width=6,
    ),
]

ALERTS = [
    Panel(
        "Alerts of the alert engine",
        "Pending: the condition holds, not yet long enough.",
        [(total("refold_alert_state", by="alert", over="max"), "{{alert}}")],
        kind="state-timeline",
        width=12,
        states={0: (" ", "transparent"), 1: ("pending", WARNING), 2: ("firing", BAD)},
    ),
    Panel(
        "Alerts of Prometheus",
        "Those of infra/prometheus/rules that fire.",
        [('max by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}")],
        kind="state-timeline",
        width=12,
        states={1: ("firing", BAD)},
    ),
    Panel(
        "Notifiers of the alert engine",
        "Whether the last attempt of each has delivered.",
        [(of("refold_alert_notifier_up"), "{{notifier}}")],
        kind="state-timeline",
        alerts=["NotifierDown"],
        states=ON_OFF,
    ),
    Panel(
        "Notifications that wait",
        "Not delivered yet, for each notifier; and in the window, what each has delivered or given up.",
        [
            (of("refold_alert_notifier_waiting"), "{{notifier}}"),
            (increase("refold_alert_notifications_total", by="notifier,result"), "{{notifier}} {{result}}"),
        ],
    ),
    Panel(
        "Services that the engine reaches",
        "Those that answered when it asked last; and values and alerts that it left out in the window.",
        [
            (of("refold_alert_targets_answering"), "services"),
            (increase("refold_alert_dropped_total", by="what"), "{{what}}s left out"),
        ],
    ),
]

USAGE = [
    Panel(
        "Usage counts: events counted",
        "`refold usage serve`, where it runs.",
        [(rate("refold_usage_events_total"), "events")],
        unit="eps",
    ),
    Panel(
        "Usage counts: behind the log",
        "Events that are not counted yet.",
        [
            (
                f"clamp_min(scalar(max({of('refold_log_last_sequence')})) - {of('refold_usage_sequence')}, 0)",
                "events",
            )
        ],
    ),
]

TRACES = [
    Panel(
        "Spans",
        "Only `sent` ones can be looked at. `dropped`: the collector is slow. `over`: a commit had too many.",
        rates("refold_spans_total", by="result"),
        unit="cps",
        is_stacked=True,
    ),
]

BOARD = Board(
    name="refold-operations",
    title="Refold / Operations",
    about="The processes: what runs, who owns the shards, which resource runs out, who was notified?",
    variables={"shard": "refold_lag_seconds"},
    rows={
        "Instances: what runs, is it ready?": INSTANCES,
        "Ownership: who folds, is the log whole?": OWNERSHIP,
        "Processes: which resource runs out?": PROCESSES,
        "NATS: is the connection steady?": NATS,
        "Alerts: what fires, was it delivered?": ALERTS,
        "Usage and traces": (*USAGE, *TRACES),
    },
)
