"""Commands about the system as a whole: status, config, psql, log, bench. Loaded by `refold.cli`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from refold.cli.options import (
    DataOption,
    JsonOption,
    NamespaceArgument,
    Output,
    System,
    add_command,
    read_json,
)
from refold.cli.output import json_array, json_line, print_table, printable, say, short_time
from refold.core.errors import DocumentAbsent, Refused
from refold.embedded import DEFAULT_DATA, no_system, running_settings

if TYPE_CHECKING:
    from refold.client import Namespace, Outcome, Refold
    from refold.core.json_text import Json

HEALTH_SECONDS: Final = 5.0
"""A gateway answers `/health` within 2 s; one that takes longer than this does not answer."""


async def status(
    system: System,
    output: Output,
    is_sql: Annotated[
        bool,
        typer.Option(
            "--sql", help='Print only the URL of Postgres, password included: psql "$(refold status --sql)"'
        ),
    ] = False,
    is_checked: Annotated[
        bool,
        typer.Option(
            "--checks", help="Print what the gateway's checks of the system find; exit with 1 if one fails."
        ),
    ] = False,
) -> None:
    """Print the system's state, addresses and lag."""
    if is_sql:
        say(_postgres_url(system))
        return
    if is_checked:
        await _print_checks(system, output)
        return
    async with system.client() as refold:
        facts, namespaces = await refold.status(), await refold.namespaces()
    if output.is_json:
        json_line(facts)
    else:
        _print_status(system, facts, namespaces)


def config(
    output: Output,
    is_running: Annotated[
        bool, typer.Option("--running", help="Print the settings of the system that runs on the data folder.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Print the settings that a service started here would use.

    A running system has the settings that it was started with: --running prints them.
    """
    if is_running:
        folder = data or DEFAULT_DATA
        rows, whose = running_settings(folder), f"the system that runs on {folder}"
    else:
        from refold.wiring.settings import described, load, unknown_variables

        rows, whose = described(load(data=data)), "a service started here; --running: of the running system"
        for name, nearest in unknown_variables().items():
            hint = f": did you mean {nearest}?" if nearest else ""
            say(f"{name} is not a setting{hint}", "yellow", is_error=True)
    if output.is_json:
        json_array(list(rows))
        return
    say(f"Settings of {whose}.", is_error=True)
    print_table(("setting", "value", "from", "what it is"), [tuple(row.values()) for row in rows])


def psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENT", help="Arguments of psql: -c 'SELECT 1'")
    ] = None,
    data: DataOption = None,
) -> None:
    """Run psql on the database of the system that runs on the data folder."""
    import os
    from urllib.parse import urlsplit

    from refold.embedded.postgres import postgres_install
    from refold.wiring.settings import environment_without

    url = urlsplit(_postgres_url(System(data=data)))
    address = url._replace(netloc=f"{url.username}@{url.hostname}:{url.port}").geturl()
    program = str(postgres_install() / "bin" / "psql")
    # In the environment, because everyone can read a process's arguments.
    environment = environment_without() | {"PGPASSWORD": url.password or ""}
    os.execve(program, [program, address, *(arguments or [])], environment)  # noqa: S606 - psql takes over.


async def settings(
    namespace: NamespaceArgument,
    system: System,
    output: Output,
    value: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="The settings: a file, - for stdin, or the JSON itself."),
    ] = None,
) -> None:
    """Print a namespace's settings, or set them for all later events.

    They are an object of `on_conflict`, `limits`, `schema` and `feed`, each optional; {} sets the defaults. To set them
    needs the administrator's rights: on the data folder of `refold up`, or by REFOLD_NATS_ADMIN_URL.
    """
    from refold.cli.output import indented_json, print_outcome
    from refold.core.fold import NEWEST
    from refold.core.settings import SETTINGS_FOLD, SETTINGS_PREFIX, read_settings
    from refold.core.stream import SYSTEM_NAMESPACE

    document = f"{SETTINGS_PREFIX}{namespace}"
    state = {} if value is None else read_json(value, "settings")
    # Refused before it is published, by the fold's own rules.
    read_settings(document, state, NEWEST.limits)
    async with system.client() as refold:
        if value is None:
            with suppress(DocumentAbsent):
                state = (await refold.get(SYSTEM_NAMESPACE, document)).state
            typer.echo(indented_json(state))
            return
        facts = await refold.status()
        if facts["fold"] < SETTINGS_FOLD:
            rule = f"a log under fold {facts['fold']} has no settings; `refold fold {SETTINGS_FOLD}` moves it"
            raise Refused("not_in_this_fold", rule, field=namespace)
        outcome = await _put_system(refold, system, document, state, facts["log_id"])
    print_outcome(outcome, is_json=output.is_json)


async def fold(
    number: Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="The new fold number.")],
    system: System,
    output: Output,
) -> None:
    """Move the log to a newer fold: the rules by which later events are folded. There is no way back.

    Events that are in the log keep their outcomes. A projector that does not know the number stops: update all services
    first. It needs the administrator's rights: on the data folder of `refold up`, or by REFOLD_NATS_ADMIN_URL.
    """
    from refold.cli.output import print_outcome
    from refold.core.fold import RULES
    from refold.core.stream import FOLD_DOCUMENT

    async with system.client() as refold:
        facts = await refold.status()
        current, newest = facts["fold"], max(RULES)
        if not current < number <= newest:
            rule = (
                f"the log is under fold {current}; this program knows fold {newest}, and there is no way back"
            )
            raise Refused("bad_fold", rule, field="fold", shape=str(number))
        outcome = await _put_system(refold, system, FOLD_DOCUMENT, {"fold": number}, facts["log_id"])
    if output.is_json or not outcome.is_effective:
        print_outcome(outcome, is_json=output.is_json)
    else:
        say(f"fold {number} after sequence {outcome.sequence}; the events up to it stay under fold {current}")


async def _put_system(refold: Refold, system: System, document: str, state: Json, log_id: str) -> Outcome:
    """Put a system document as the administrator; what is effective is committed when this returns."""
    from refold.client.responses import read_outcome
    from refold.core.stream import SYSTEM_NAMESPACE
    from refold.wiring.servers import put_system

    outcome = read_outcome(await put_system(system.data, document, state, log_id=log_id))
    if outcome.is_effective:
        # The client's reads are of a projection that has committed what it was sent.
        await refold.outcome(SYSTEM_NAMESPACE, document, sequence=outcome.sequence)
        await refold.get(SYSTEM_NAMESPACE, document)
    return outcome


async def create(
    output: Output,
    has_lost_the_log: Annotated[
        bool,
        typer.Option(
            "--i-have-lost-the-log",
            help="Create a new log although there was one before; the rest of the lost one is kept.",
        ),
    ] = False,
    data: DataOption = None,
) -> None:
    """Create the log where there is none; where there was one, only if it is lost.

    Works on a data folder on which `refold up` does not run (--data), otherwise by REFOLD_NATS_ADMIN_URL and
    REFOLD_POSTGRES_URL.
    """
    from refold.wiring.lost_log import create_log

    created = await create_log(data, has_lost_the_log=has_lost_the_log)
    if output.is_json:
        json_line({"log_id": created.log_id, "kept": list(created.kept)})
        return
    say(f"log {created.log_id}")
    for kept in created.kept:
        say(f"kept of the lost log: {kept}")


log = typer.Typer(name="log", no_args_is_help=True)
log.callback(help="Create the log.")(lambda: None)
add_command(log, create)


def _postgres_url(system: System) -> str:
    """Return the address of the system's PostgreSQL. Raises `Refused` where it keeps its projection elsewhere."""
    endpoints = system.endpoints()
    if not endpoints:
        raise no_system(system.data)
    if "postgres" not in endpoints:
        schemes = [url.partition("://")[0] for url in str(endpoints["stores"]).split()]
        stores = ", ".join("files" if scheme == "file" else scheme for scheme in schemes)
        rule = (
            f"the system has no PostgreSQL of its own, its store is {stores}: start it with --store postgres"
        )
        raise Refused("sql_needs_postgres", rule)
    return str(endpoints["postgres"])


async def _print_checks(system: System, output: Output) -> None:
    """Print `/health`; exit with 1 where a check fails."""
    async with system.client(timeout_seconds=HEALTH_SECONDS) as refold:
        health = await refold.health()
    if output.is_json:
        json_line(health)
    else:
        found = [(name, each) for name, findings in health["checks"].items() for each in findings]
        print_table(("check", "status", "value", "limit", "of"), [_cells(*each) for each in found])
        for name, each in found:
            if each["status"] != "pass":
                about = f"{name} of {each['componentId']}" if "componentId" in each else name
                since = f"first found {short_time(each['since'])}"
                say(printable(f"{each['status']}  {about}: {each.get('output', '')} ({since})"))
        say(health["status"], {"pass": "green", "warn": "yellow"}.get(health["status"], "red"))
    if health["status"] == "fail":
        raise typer.Exit(1)


def _cells(name: str, finding: dict[str, Any]) -> tuple[Any, ...]:
    measured = f"{finding.get('observedValue', '')} {finding.get('observedUnit', '')}".rstrip()
    return name, finding["status"], measured, finding.get("limit", ""), finding.get("componentId", "")


def _print_status(system: System, facts: dict[str, Any], namespaces: tuple[Namespace, ...]) -> None:
    from refold.client.transport import full_url

    say(f"url     {full_url(system.gateway_url())}")
    if not system.url and "nats" in (endpoints := system.endpoints()):
        option = f" --data {system.data}" if system.data else ""
        if "postgres" in endpoints:
            say(f"sql     refold psql{option}")
        say(f"nats    {endpoints['nats']}")
    say(f"log     {facts['log_id']}, fold {facts['fold']}, {facts['last_sequence']:,} events")
    lag = f"behind by {facts['lag_events']:,} events ({facts['lag_seconds']:.3f} s)"
    say(f"folded  {facts['folded_sequence']:,}, {lag}", "yellow" if facts["lag_events"] else "")
    say("with    " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    rows = [(it.name, f"{it.documents:,}", f"{it.events:,}") for it in namespaces]
    print_table(("namespace", "documents", "events"), rows)


# --- Measurements ----------------------------------------------------------------------------------------

DocumentsOption = Annotated[int, typer.Option("--documents", min=1, help="Number of documents.")]
DocumentBytesOption = Annotated[int, typer.Option("--document-bytes", min=200, help="Size of a document.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0.1, help="Duration of each measurement in a round.")
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options of every measurement."""

    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything is measured.")] = 3
    durability: Annotated[
        Literal["fsync", "os"], typer.Option("--durability", help="Durability of a temporary system.")
    ] = "fsync"
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="A running system; default: a temporary one.")
    ] = None
    json: JsonOption = False


async def append(run: Run, seconds: SecondsOption = 3.0) -> None:
    """Append to the log: single events by 1, 8 and 64 writers, and atomic batches of 100 and 1,000.

    --url is a NATS address with a user that may append and read the stream's state.
    """
    from refold.bench.measure import append

    await _run(append, run, seconds=seconds)


async def live(
    run: Run,
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0: as many as possible.")] = 0.0,
    seconds: SecondsOption = 10.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Upload and fold events, with the lag of the fold."""
    from refold.bench.measure import live

    measure = partial(live, rate=rate)
    await _run(measure, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def latency(
    run: Run,
    rate: Annotated[float, typer.Option(min=1, help="Patches that are due a second.")] = 500.0,
    seconds: SecondsOption = 8.0,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Send patches at a fixed rate: from the instant that each was due to its outcome."""
    from refold.bench.measure import latency

    measure = partial(latency, rate=rate)
    await _run(measure, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def read(
    run: Run,
    seconds: SecondsOption = 4.0,
    documents: DocumentsOption = 3_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Read latest states with 1, 16 and 64 requests in flight."""
    from refold.bench.measure import read

    await _run(read, run, seconds=seconds, documents=documents, document_bytes=document_bytes)


async def travel(
    run: Run,
    events: Annotated[int, typer.Option(min=1, help="Events over all documents.")] = 50_000,
    reads: Annotated[int, typer.Option(min=1, help="Reads of each kind in a round.")] = 2_000,
    documents: DocumentsOption = 1_000,
    document_bytes: DocumentBytesOption = 2_048,
) -> None:
    """Read random versions and times of random documents, and check each state."""
    from refold.bench.measure import travel

    measure = partial(travel, events=events, reads=reads)
    await _run(measure, run, seconds=0.0, documents=documents, document_bytes=document_bytes)


async def _run(measure: Callable[..., Coroutine[Any, Any, None]], run: Run, **amounts: Any) -> None:
    from refold.bench import COLUMNS, Figures
    from refold.bench.measure import Options, Target, target_of
    from refold.telemetry.logging import configure
    from refold.wiring.system import temporary_system

    configure("error", service="bench")
    figures = Figures()
    options = Options(rounds=run.rounds, say=partial(typer.echo, err=True), **amounts)
    if run.url is not None:
        await measure(Target(http=run.url, nats=run.url), options, figures)
    else:
        async with temporary_system(durability=run.durability, log_level="warning") as system:
            await measure(target_of(system), options, figures)
    if run.json:
        json_line(figures.plain(options.numbers() | {"durability": run.durability}))
    else:
        print_table(COLUMNS, figures.rows())


bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Load a temporary or a running system and print what it did: minimum, median and maximum of the rounds.\n\n"
    "Events go to the namespace `bench`, so do not use a system that matters.",
)
for _command in (append, live, latency, read, travel):
    add_command(bench, _command)
