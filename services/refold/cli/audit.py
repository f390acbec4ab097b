"""Commands that check and rebuild a projection: verify, rebuild. Loaded by `refold.cli`."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from refold.cli.errors import REFUSED
from refold.cli.options import DataOption, Output
from refold.cli.output import console, json_line, print_beside, printable, say, working
from refold.core.errors import Refused, ServiceUnavailable, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from refold.audit import Difference
    from refold.audit import rebuild as rebuilding
    from refold.audit.verify import Tally
    from refold.store.ports import Unequal
    from refold.wiring.settings import Settings
    from refold.wiring.store_url import StoreUrl

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="NAME",
        help="A store that keeps all versions: postgres, files, files-2; by default the first of these.",
    ),
]
LISTENS_SECONDS = 2.0
PORTS: Final = {
    "nats": 4222,
    "tls": 4222,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
}


def verify(
    output: Output,
    target: Annotated[
        str | None,
        typer.Argument(metavar="NS[/DOC]", help="A namespace or one document; by default everything."),
    ] = None,
    is_independent: Annotated[
        bool,
        typer.Option(
            "--independent",
            help="Fold with the jsonpatch library and RFC 7396 instead of Refold's own code.",
        ),
    ] = False,
    store: StoreOption = None,
    data: DataOption = None,
) -> None:
    """Replay the log and compare the whole projection with it.

    Documents, their history, rejections and hash chains are compared; a difference is exit code 1. With --independent,
    only states, versions and numbers of events are compared, and the output says which decisions were judged.
    """
    from refold.audit.independent import Coverage
    from refold.audit.verify import Listener, Scope
    from refold.wiring.audit import run_verify
    from refold.wiring.service import run_folding
    from refold.wiring.stores import audited_store, store_urls

    settings = reach_servers(data, lambda it: [audited_store(it, store)])
    audited, has_several = audited_store(settings, store).name, len(store_urls(settings)) > 1
    namespace, _, document = (target or "").partition("/")
    scope = Scope(namespace=namespace or None, document=document or None)
    coverage = Coverage() if is_independent else None
    with working() as progress:
        report = Report(progress, is_json=output.is_json)
        listener = Listener(
            difference=lambda it: report.add(_difference_line(it), it._asdict()),
            progress=lambda it: report.advance(
                f"{it.read_sequence:,} events read, {it.events:,} folded again",
                it.read_sequence + it.events,
                2 * it.end_sequence,
            ),
        )
        tally = run_folding(run_verify(settings, listener, scope, coverage, name=store))
    if target and not (tally.documents or tally.events or tally.differences):
        raise Refused("nothing_found", f"the log has no event of {target}, the projection no row")
    if output.is_json:
        facts = {"documents": tally.documents, "events": tally.events, "differences": tally.differences}
        judged = {} if coverage is None else {"coverage": dict(coverage)}
        report.print_json(
            {"store": audited, "sequence": tally.end_sequence, **facts, **judged, "found": report.found}
        )
    else:
        for what, count in sorted((coverage or Coverage()).items()):
            say(f"{count:>12,}  {what}")
        _say_verified(tally, report.pace(tally.read_sequence), where=f" in {audited}" if has_several else "")
    if tally.differences:
        raise typer.Exit(REFUSED)


def _say_verified(tally: Tally, pace: str, *, where: str) -> None:
    result = f"{tally.differences:,} differences" if tally.differences else "clean"
    counts = f"{tally.documents:,} documents, {tally.events:,} events{where}"
    text = f"{result}: {counts}, up to sequence {tally.end_sequence:,}, in {pace}"
    say(text, "red" if tally.differences else "green")


def rebuild(
    output: Output,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            metavar="SCHEMA",
            help="Schema to build in; by default the live one's name with _rebuild.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            max=8,
            help="Processes that fold a long log; by default one a processor, at most 8.",
        ),
    ] = None,
    is_from_nothing: Annotated[
        bool,
        typer.Option(
            "--from-nothing",
            help="For a damaged projection: compare nothing and keep it under another name.",
        ),
    ] = False,
    store: StoreOption = None,
    data: DataOption = None,
) -> None:
    """Rebuild the projection from the log beside the live one, and swap both.

    They are compared first; on a difference nothing is swapped. Starts the folder's servers if no system runs.
    """
    from refold.telemetry.logging import configure
    from refold.wiring.audit import run_rebuild
    from refold.wiring.service import run_folding
    from refold.wiring.settings import load
    from refold.wiring.stores import audited_store

    configure("error", service="refold")
    settings = load(data=data)
    if settings.names_servers:
        _refuse_silent(settings, [audited_store(settings, store, is_rebuilt=True)])
    with working() as progress:
        report = Report(progress, is_json=output.is_json)
        listener, is_compared = _listener(report), not is_from_nothing
        ended, kept, fresh = run_folding(
            run_rebuild(data, into, listener, name=store, is_compared=is_compared, processes=processes)
        )
    if output.is_json:
        report.print_json({**_facts(ended), "found": report.found, "kept": kept or None})
    else:
        replayed = f"{ended.replayed_events:,} events replayed in {report.pace(ended.replayed_events)}"
        _say_rebuilt(ended, replayed, is_compared=is_compared, fresh=fresh, kept=kept)
    if not ended.is_swapped:
        raise typer.Exit(REFUSED)


def _say_rebuilt(
    ended: rebuilding.Rebuilt, replayed: str, *, is_compared: bool, fresh: str, kept: str
) -> None:
    if not ended.is_swapped:
        say(f"{ended.differences:,} differences, nothing swapped: {replayed}; it is kept in {fresh}", "red")
    elif is_compared:
        held = f"live held for {ended.held_seconds * 1_000:,.0f} ms"
        say(f"equal and swapped at sequence {ended.sequence:,}: {replayed}, {held}", "green")
    else:
        say(f"rebuilt from the log to sequence {ended.sequence:,}: {replayed}", "green")
    if kept:
        say(f"The damaged projection is kept as {kept}; delete it when you no longer need it.")


class Report:
    """What a command has found so far, how far it is, and how long it takes."""

    def __init__(self, progress: Progress, *, is_json: bool) -> None:
        self.found: list[dict[str, Any]] = []
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._is_json = is_json
        self._begun = time.monotonic()

    def add(self, line: str, plain: dict[str, Any]) -> None:
        """Print a difference on stdout without breaking the bar, or keep it for JSON."""
        if self._is_json:
            self.found.append(plain)
        elif sys.stdout.isatty() and not self._progress.disable:
            print_beside(self._progress, line)
        else:
            console().print(printable(line), markup=False, soft_wrap=True)

    def advance(self, description: str, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total, description=description)

    def pace(self, events: int) -> str:
        seconds = time.monotonic() - self._begun
        return f"{seconds:.1f} s ({events / seconds:,.0f} events/s)"

    def print_json(self, facts: dict[str, Any]) -> None:
        json_line({**facts, "seconds": round(time.monotonic() - self._begun, 3)})


def _listener(report: Report) -> rebuilding.Listener:
    from refold.audit.rebuild import Listener

    return Listener(
        difference=lambda it: report.add(_unequal_line(it), _plain(it)),
        progress=lambda stage, sequence, until: report.advance(
            f"{stage.value}, {sequence:,} of {until:,} events", sequence, until
        ),
    )


def reach_servers(
    data: Path | None, needed: Callable[[Settings], Sequence[StoreUrl]] | None = None
) -> Settings:
    """Find the running system; the stores that are `needed`, by default all, must listen.

    Raises `ServiceUnavailable`, and `StoreUnavailable` which names the store.
    """
    from refold.wiring.servers import reach
    from refold.wiring.stores import store_urls

    settings = reach(data)
    _refuse_silent(settings, (needed or store_urls)(settings))
    return settings


def _refuse_silent(settings: Settings, stores: Sequence[StoreUrl]) -> None:
    """Raise at once where a server does not listen."""
    from refold.telemetry import redacted_text

    silent = [store for store in stores if store.kind != "files" and not _listens(store.url)]
    nats_url = settings.required("nats_url")
    if not _listens(nats_url):
        addresses = redacted_text(", ".join((nats_url, *(store.url for store in silent))))
        message = f"no system runs there: nothing listens at {addresses}; start it with `refold up`"
        raise ServiceUnavailable(message, missing=str(settings.data))
    if silent:
        listed = ", ".join(f"{store.name} at {store.address}" for store in silent)
        raise StoreUnavailable(f"the store cannot be reached: nothing listens for {listed}")


def _listens(url: str) -> bool:
    """Return whether one of the servers of a URL takes connections."""
    for address in url.split(","):
        split = urlsplit(address)
        port = split.port or PORTS[split.scheme]
        with suppress(OSError):
            socket.create_connection((split.hostname or "127.0.0.1", port), LISTENS_SECONDS).close()
            return True
    return False


def _difference_line(difference: Difference) -> str:
    where = "/".join(filter(None, (difference.namespace, difference.document))) or "the log"
    at = "" if difference.sequence is None else f" at sequence {difference.sequence}"
    description = f"{difference.part} {difference.field}"
    return f"{where}{at}: {description}: expected {difference.expected}, found {difference.found}"


def _unequal_line(unequal: Unequal) -> str:
    where = "/".join(filter(None, (unequal.namespace, unequal.document))) or "checkpoints"
    return f"{where}: live {_shown(unequal.live)}, rebuilt {_shown(unequal.fresh)}"


def _shown(row: Any) -> str:
    if row is None or isinstance(row, str):
        return row or "nothing"
    state = row.state_hash[:16] if row.state_hash else "absent"
    return f"version {row.version}, last sequence {row.last_sequence}, state {state}"


def _plain(unequal: Unequal) -> dict[str, Any]:
    sides = {"live": unequal.live, "rebuilt": unequal.fresh}
    rows = {name: side._asdict() if isinstance(side, tuple) else side for name, side in sides.items()}
    return {"namespace": unequal.namespace, "document": unequal.document, **rows}


def _facts(ended: rebuilding.Rebuilt) -> dict[str, Any]:
    return {
        "swapped": ended.is_swapped,
        "sequence": ended.sequence,
        "replayed": ended.replayed_events,
        "differences": ended.differences,
        "held_seconds": round(ended.held_seconds, 3),
    }
