"""The settings as flags of the services' commands; names and words are those of `refold.wiring.settings`.

Used by `refold.cli.serve`. Written out, not made from the settings: importing those would slow down every command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

PANEL: Final = "Settings: each is also a REFOLD_… variable"


def _flag(name: str, description: str, metavar: str | None = None, default: str | None = None) -> Any:
    # Not given it is None, so that the variable counts; what is in force then is only shown.
    shown = default if default is not None else False
    return typer.Option(name, help=description, metavar=metavar, show_default=shown, rich_help_panel=PANEL)


Data = Annotated[Path | None, _flag("--data", "Data folder of `refold up`.", "DIR", default=".refold")]
Http = Annotated[
    str | None,
    _flag(
        "--http",
        "Where the gateway listens, HOST:PORT; port 0 = any free one.",
        "HOST:PORT",
        default="127.0.0.1:8080",
    ),
]
Probe = Annotated[
    str | None,
    _flag(
        "--probe",
        "Where the projector answers probes and metrics, HOST:PORT; port 0 = any free one.",
        "HOST:PORT",
        default="127.0.0.1:0",
    ),
]
NatsPort = Annotated[
    int | None, _flag("--nats-port", "Port of the embedded NATS; 0 = any free one.", "PORT", default="4222")
]
Durability = Annotated[
    Literal["fsync", "os"] | None,
    _flag(
        "--durability",
        "Embedded log: `fsync` survives power loss, `os` is for throw-away data.",
        default="fsync",
    ),
]
NatsUrl = Annotated[
    str | None,
    _flag(
        "--nats-url", "NATS, as the service's own user; a cluster's servers with commas between them.", "URL"
    ),
]
NatsAdminUrl = Annotated[
    str | None,
    _flag(
        "--nats-admin-url", "NATS, as the administrator: makes the log at start where there is none.", "URL"
    ),
]
NatsReplyUrl = Annotated[
    str | None,
    _flag(
        "--nats-reply-url",
        "NATS, as a user that can do nothing but reply: the projector sends outcomes by it.",
        "URL",
    ),
]
NatsReplicas = Annotated[
    int | None,
    _flag(
        "--nats-replicas",
        "Servers of a NATS cluster that keep the log, where it is made at start.",
        "SERVERS",
        default="1",
    ),
]
PostgresUrl = Annotated[
    str | None, _flag("--postgres-url", "Postgres, with all rights on the schema.", "URL")
]
PostgresSchema = Annotated[
    str | None, _flag("--postgres-schema", "Schema that holds the projection.", "NAME", default="refold")
]
CacheBytesMax = Annotated[
    int | None,
    _flag(
        "--cache-bytes-max",
        "Documents that a projector keeps in memory, in bytes.",
        "BYTES",
        default="268435456",
    ),
]
CommitEventsMax = Annotated[
    int | None,
    _flag(
        "--commit-events-max",
        "Events in one commit, at most; a commit is as large as the backlog, within this and its memory.",
        "EVENTS",
        default="50000",
    ),
]
StateLagBytes = Annotated[
    int | None,
    _flag(
        "--state-lag-bytes",
        "A larger document is not written to its row with every commit; reads are exact all the same.",
        "BYTES",
        default="32768",
    ),
]
StateLagSeconds = Annotated[
    float | None,
    _flag(
        "--state-lag-seconds",
        "How long the row of such a document may lag, which only SQL sees; 0 = never.",
        "SECONDS",
        default="1.0",
    ),
]
WaitSeconds = Annotated[
    float | None,
    _flag(
        "--wait-seconds",
        "How long a write waits for its outcome when it does not say.",
        "SECONDS",
        default="5.0",
    ),
]
StaleReads = Annotated[
    bool | None,
    _flag(
        "--stale-reads",
        "Answer reads while a starting gateway waits for the projection, marked by `Refold-Lag-Events`.",
        default="False",
    ),
]
ReadyLagSeconds = Annotated[
    float | None,
    _flag(
        "--ready-lag-seconds",
        "A gateway is not ready while the projection is further behind the log than this.",
        "SECONDS",
        default="5.0",
    ),
]
HttpIdleSeconds = Annotated[
    float | None,
    _flag(
        "--http-idle-seconds",
        "A connection on which no request's headers are complete after this is closed.",
        "SECONDS",
        default="30.0",
    ),
]
HttpBodySeconds = Annotated[
    float | None,
    _flag(
        "--http-body-seconds",
        "A request whose body makes no progress for so long is ended: 408.",
        "SECONDS",
        default="30.0",
    ),
]
HttpWaitingMax = Annotated[
    int | None,
    _flag(
        "--http-waiting-max",
        "Requests that may wait at a time, for what is not folded yet or for their body; more get 503.",
        "REQUESTS",
        default="8192",
    ),
]
HttpWaitingPerClientMax = Annotated[
    int | None,
    _flag(
        "--http-waiting-per-client-max",
        "The same from one address; more get 429. Clients behind one proxy share an address.",
        "REQUESTS",
        default="4096",
    ),
]
HttpHosts = Annotated[
    str | None,
    _flag(
        "--http-hosts",
        "Host names that the gateway serves besides loopback names and IP addresses, with commas between them; "
        "`*.example.org` for all names below one, `*` for any.",
        "NAMES",
    ),
]
CorsOrigins = Annotated[
    str | None,
    _flag(
        "--cors-origins",
        "Origins whose web pages may use the gateway, such as https://app.example.org, with commas between them; "
        "`*` for any.",
        "ORIGINS",
    ),
]
StatementTimeoutSeconds = Annotated[
    float | None,
    _flag(
        "--statement-timeout-seconds",
        "How long a reading statement may take in Postgres.",
        "SECONDS",
        default="10.0",
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    _flag("--log-level", "Least level logged.", default="info"),
]
