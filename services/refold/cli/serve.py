"""Commands that run services: up, projector, gateway. Loaded by `refold.cli.app`.

Their options are the settings of `refold.wiring.settings`, declared there.
"""

from __future__ import annotations

from dataclasses import asdict, make_dataclass
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer

from refold.cli.options import expanded
from refold.wiring.settings import Settings

PANEL: Final = "Settings: each is also a REFOLD_… variable"
_METAVARS: Final = {"bytes": "BYTES", "seconds": "SECONDS", "port": "PORT", "url": "URL", "http": "HOST:PORT"}

FOLD: Final = ("cache_bytes_max", "commit_events_max", "state_lag_bytes", "state_lag_seconds")
HTTP: Final = (
    "http",
    "http_hosts",
    "cors_origins",
    "wait_seconds",
    "stale_reads",
    "ready_lag_seconds",
    "http_idle_seconds",
    "http_body_seconds",
    "http_waiting_max",
    "http_waiting_per_client_max",
    "statement_timeout_seconds",
)
SERVERS: Final = ("nats_url", "postgres_url", "postgres_schema")


def flags(*names: str) -> type:
    """Return a dataclass of the settings as options; those that are not given are None."""
    return make_dataclass("Flags", [(name, _option(name), None) for name in names], frozen=True, kw_only=True)


def _option(name: str) -> Any:
    setting = Settings.model_fields[name]
    kinds = get_args(setting.annotation) or (setting.annotation,)
    is_flag = bool in kinds
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=setting.description,
        metavar=None if is_flag else _metavar(name, setting.annotation),
        show_default="" if setting.default is None else str(setting.default),
        rich_help_panel=PANEL,
    )
    return Annotated[(bool if is_flag else str) | None, option]


def _metavar(name: str, annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    words = name.split("_")
    return next((_METAVARS[word] for word in reversed(words) if word in _METAVARS), words[-1].upper())


UpFlags = flags("data", "nats_port", "postgres_port", "durability", *HTTP, *FOLD, "log_level")
ProjectorFlags = flags(
    *SERVERS, "nats_admin_url", "nats_reply_url", "nats_replicas", "probe", "shard", *FOLD, "log_level"
)
GatewayFlags = flags(*SERVERS, *HTTP, "log_level")


@expanded
def up(settings: UpFlags) -> None:  # type: ignore[valid-type]
    """Run the whole system on this machine, with nothing to install."""
    import asyncio

    from refold.wiring.settings import load
    from refold.wiring.system import up as run

    asyncio.run(run(load(**asdict(settings)), say=typer.echo))


@expanded
def projector(settings: ProjectorFlags) -> None:  # type: ignore[valid-type]
    """Run one projector: it reads the log and folds it into Postgres."""
    from refold.wiring.projector import run
    from refold.wiring.service import start

    start("projector", run, **asdict(settings))


@expanded
def gateway(settings: GatewayFlags) -> None:  # type: ignore[valid-type]
    """Run one gateway: HTTP in front of NATS and Postgres."""
    from refold.wiring.gateway import run
    from refold.wiring.service import start

    start("gateway", run, **asdict(settings))


COMMANDS = {"up": up, "projector": projector, "gateway": gateway}
