"""Commands that run services: up, projector, gateway, resolver, demo. Loaded by `refold.cli`.

The options of services are the settings of `refold.wiring.settings`, declared there.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import typer

from refold.cli.options import System as Gateway
from refold.cli.output import console, print_changes, printable, say, short_json
from refold.wiring.settings import Settings, flag_of

if TYPE_CHECKING:
    from refold.client import Refold
    from refold.wiring.demo import Recording
    from refold.wiring.system import System

SHOWN_CHANGES: Final = 5
SHOWN_OPERATIONS: Final = 6
SHOWN_VERSIONS: Final = 20
PANEL: Final = "Settings: each is also a REFOLD_… variable"
_METAVARS: Final = {
    "data": "DIR",
    "bytes": "BYTES",
    "seconds": "SECONDS",
    "port": "PORT",
    "url": "URL",
    "max": "N",
}

FOLD: Final = (
    "cache_bytes_max",
    "commit_events_max",
    "commit_interval_seconds",
    "state_lag_bytes",
    "state_lag_seconds",
    "compression",
    "compression_bytes_min",
)
HTTP: Final = (
    "http",
    "http_hosts",
    "cors_origins",
    "wait_seconds",
    "stale_reads",
    "ready_lag_seconds",
    "cache_states_bytes",
    "http_idle_seconds",
    "http_body_seconds",
    "http_waiting_max",
    "http_waiting_per_client_max",
    "live_connections_max",
    "live_per_client_max",
    "live_seconds_max",
    "statement_timeout_seconds",
)
TRACES: Final = ("otlp_url", "trace_ratio")
SERVERS: Final = ("nats_url", "stores", "postgres_url", "postgres_schema")


def flags(*names: str) -> type:
    """Return a dataclass of the settings as options; those that are not given are None."""
    return make_dataclass("Flags", [(name, _option(name), None) for name in names], frozen=True, kw_only=True)


def _option(name: str) -> Any:
    setting = Settings.model_fields[name]
    kinds = get_args(setting.annotation) or (setting.annotation,)
    is_flag, is_repeated = bool in kinds, name == "stores"
    has_default = setting.default not in (None, "", False)
    option = typer.Option(
        flag_of(name),
        help=f"{setting.description} Default: {setting.default}" if has_default else setting.description,
        metavar=None if is_flag else _metavar(name, setting.annotation),
        # The option's own default is None: not given.
        show_default=False,
        rich_help_panel=PANEL,
    )
    return Annotated[(bool if is_flag else list[str] if is_repeated else str) | None, option]


def _metavar(name: str, annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if name == "http":
        return "HOST:PORT"
    if name == "stores":
        return "URL"
    words = name.split("_")
    return next((metavar for word, metavar in _METAVARS.items() if word in words), words[-1].upper())


UpFlags = flags(
    "data",
    "stores",
    "probe",
    "nats_port",
    "postgres_port",
    "durability",
    *HTTP,
    *FOLD,
    "alerts",
    "usage",
    "usage_totals",
    *TRACES,
    "metric_namespaces_max",
    "profiling",
    "log_level",
)
ProjectorFlags = flags(
    *SERVERS,
    "projector_store",
    "nats_admin_url",
    "nats_reply_url",
    "nats_replicas",
    "nats_monitor",
    "probe",
    "shard",
    *FOLD,
    "otlp_url",
    "metric_namespaces_max",
    "profiling",
    "log_level",
)
GatewayFlags = flags(
    *SERVERS, *HTTP, "alerts_url", *TRACES, "metric_namespaces_max", "profiling", "log_level"
)


def up(settings: UpFlags) -> None:  # type: ignore[valid-type]
    """Run the whole system on this machine, with nothing to install."""
    from refold.wiring.settings import load
    from refold.wiring.system import up as run

    asyncio.run(run(load(**asdict(settings)), say=typer.echo))


def projector(settings: ProjectorFlags) -> None:  # type: ignore[valid-type]
    """Run one projector: it reads the log and folds it into its store."""
    from refold.wiring.projector import run
    from refold.wiring.service import start

    start("projector", run, **asdict(settings))


def gateway(settings: GatewayFlags) -> None:  # type: ignore[valid-type]
    """Run one gateway: HTTP in front of NATS and the stores."""
    from refold.wiring.gateway import run
    from refold.wiring.service import start

    start("gateway", run, **asdict(settings))


def resolver(
    module: Annotated[
        str, typer.Argument(metavar="MODULE", help="A module's name, or the path of its file.")
    ],
    system: Gateway,
    nats_url: Annotated[
        str | None,
        typer.Option(
            "--nats-url",
            metavar="URL",
            envvar="REFOLD_NATS_URL",
            help="NATS, as an author; by default that of the system on the data folder.",
        ),
    ] = None,
    poll_seconds: Annotated[
        float,
        typer.Option("--poll", min=0.1, metavar="SECONDS", help="How often it looks for missed conflicts."),
    ] = 10.0,
) -> None:
    """Run the resolvers of a Python module: they decide on conflicts.

    An event with `on_conflict: custom:NAME` whose document has changed since its base is decided on by the function
    that is decorated with `@refold.resolver("NAME")`.
    """
    from refold.wiring.resolver import run_resolver

    given = nats_url or system.endpoints().get("nats")
    run_resolver(module, url=system.gateway_url(), nats_url=given, poll_seconds=poll_seconds)


def demo(
    is_once: Annotated[bool, typer.Option("--once", help="Exit afterwards instead of serving.")] = False,
    seconds: Annotated[float, typer.Option(min=0.5, max=3_600, help="How long it records.")] = 10.0,
) -> None:
    """Record this machine's vital signs and look back at them."""
    from refold.wiring.system import until_signal

    asyncio.run(until_signal(_demonstrate(seconds, is_once=is_once), _print_dim))


async def _demonstrate(seconds: float, *, is_once: bool) -> None:
    from refold.client import Refold
    from refold.wiring.demo import record
    from refold.wiring.system import temporary_system

    _title("Starting NATS, PostgreSQL, a projector and a gateway in a temporary folder")
    async with temporary_system(_print_dim) as system, Refold(system.http) as refold:
        _title(f"Recording this machine's vital signs for {seconds:g} seconds, ten times a second")
        with console().status("  starting") as status:
            recording = await record(refold, seconds, lambda so_far: status.update(_counts(so_far)))
        await _print_results(refold, recording)
        _print_farewell(system, is_once=is_once)
        if not is_once:
            await asyncio.Event().wait()


async def _print_results(refold: Refold, recording: Recording) -> None:
    """Print what was recorded, then one document's history, a diff and a state in the past."""
    from refold.wiring.demo import NAMESPACE

    status = await refold.status()
    _print(f"{_counts(recording)}, {recording.events / recording.seconds:,.0f} events/s")
    _print(
        f"published → folded in {recording.wait_seconds * 1000:,.1f} ms (median), "
        f"the fold is {status['lag_events']:,} events behind"
    )
    document = max(recording.versions, key=lambda name: recording.versions[name])
    last = recording.versions[document]
    name = f"{NAMESPACE}/{document}"

    _title("Every change is kept", f"refold history {name} --reverse --limit {SHOWN_CHANGES}")
    history = refold.history(NAMESPACE, document, limit=SHOWN_CHANGES, is_reversed=True)
    print_changes([change async for change in history], is_json=False)

    first = max(1, last - SHOWN_VERSIONS)
    _title(f"What changed from version {first} to {last}", f"refold diff {name} {first} {last}")
    patch = await refold.diff(NAMESPACE, document, first, last)
    for operation in patch[:SHOWN_OPERATIONS]:
        _print(short_json(operation))
    if len(patch) > SHOWN_OPERATIONS:
        _print_dim(f"and {len(patch) - SHOWN_OPERATIONS} more")

    middle = await refold.get(NAMESPACE, document, version=max(1, last // 2))
    _title("A look back in time", f"refold get {name} --at {middle.recorded_at}")
    found = await refold.get(NAMESPACE, document, at=middle.recorded_at)
    _print(f"version {found.version}:")
    _print(short_json(found.state))


def _print_farewell(system: System, *, is_once: bool) -> None:
    if is_once:
        _title(f"Done: the system at {system.http} stops now, and its data is removed")
        _print("start one that stays: refold up; explore this one: refold demo, without --once")
        return
    _title(f"Explore it: {system.http}/docs", "Ctrl-C stops it and removes its data")
    for command in ("status", "list machine", "history machine/memory --reverse"):
        _print(f"refold {command} --url {system.http}")


def _counts(recording: Recording) -> str:
    documents, events = len(recording.versions), recording.events
    return f"{documents} documents, {events:,} events in {recording.seconds:.1f} s"


def _title(text: str, command: str = "") -> None:
    say("")
    say(f"▸ {text}" + (f"   {command}" if command else ""), "bold cyan")


def _print(text: str) -> None:
    say(f"  {printable(text)}")


def _print_dim(line: str) -> None:
    say(f"  {line}", "dim")
