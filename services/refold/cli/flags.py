"""The settings as flags of the services' commands; names and words are those of `refold.wiring.settings`.

Used by `refold.cli.serve`. Written out, not made from the settings: importing those would slow down every command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

PANEL: Final = "Settings: each is also a REFOLD_… variable"


def _flag(name: str, description: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=description, metavar=metavar, rich_help_panel=PANEL)


Data = Annotated[Path | None, _flag("--data", "Data folder of `refold up`.", "DIR")]
Http = Annotated[
    str | None, _flag("--http", "Where the gateway listens, HOST:PORT; port 0 = any free one.", "HOST:PORT")
]
Probe = Annotated[
    str | None,
    _flag(
        "--probe",
        "Where the projector answers probes and metrics, HOST:PORT; port 0 = any free one.",
        "HOST:PORT",
    ),
]
NatsPort = Annotated[int | None, _flag("--nats-port", "Port of the embedded NATS; 0 = any free one.", "PORT")]
Durability = Annotated[
    Literal["fsync", "os"] | None,
    _flag("--durability", "Embedded log: `fsync` survives power loss, `os` is for throw-away data."),
]
NatsUrl = Annotated[str | None, _flag("--nats-url", "NATS, as the service's own user.", "URL")]
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
PostgresUrl = Annotated[
    str | None, _flag("--postgres-url", "Postgres, with all rights on the schema.", "URL")
]
PostgresSchema = Annotated[
    str | None, _flag("--postgres-schema", "Schema that holds the projection.", "NAME")
]
CacheBytesMax = Annotated[
    int | None, _flag("--cache-bytes-max", "Documents that a projector keeps in memory, in bytes.", "BYTES")
]
CommitEventsMax = Annotated[
    int | None, _flag("--commit-events-max", "Events in one commit, at most.", "EVENTS")
]
WaitSeconds = Annotated[
    float | None,
    _flag("--wait-seconds", "How long a write waits for its outcome when it does not say.", "SECONDS"),
]
StatementTimeoutSeconds = Annotated[
    float | None,
    _flag("--statement-timeout-seconds", "How long a reading statement may take in Postgres.", "SECONDS"),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None, _flag("--log-level", "Least level logged.")
]
