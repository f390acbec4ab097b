"""Commands that check and rebuild a projection: verify, rebuild. Loaded by `refold.cli.app`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refold.cli.options import DataOption, Output, expanded
from refold.cli.output import json_line, printable, say, working
from refold.core.errors import Refused, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from refold.audit.rebuild import Rebuilt, Stage
    from refold.audit.replay_check import Difference
    from refold.audit.verify import Tally
    from refold.store.ports import Unequal
    from refold.wiring.settings import Settings

LISTENS_SECONDS = 2.0

IntoOption = Annotated[
    str | None,
    typer.Option(
        "--into", metavar="SCHEMA", help="Schema to build in; by default the live one's name with _rebuild."
    ),
]

ProcessesOption = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        max=8,
        help="Processes that fold a long log; by default one a processor, at most 8.",
    ),
]


@expanded
def verify(
    output: Output,
    target: Annotated[
        str | None,
        typer.Argument(metavar="[NS[/DOC]]", help="A namespace or one document; by default everything."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Replay the log and compare the whole projection with it.

    Documents, pages, journal, rejections and hash chains are compared; a difference is exit code 1.
    """
    from refold.audit.verify import Listener, Scope
    from refold.cli.errors import REFUSED
    from refold.wiring.audit import run_verify
    from refold.wiring.service import run_folding

    settings = _reach(data)
    namespace, _, document = (target or "").partition("/")
    scope = Scope(namespace=namespace or None, document=document or None)
    found: list[dict[str, Any]] = []
    begun = time.monotonic()
    with working() as progress:
        task = progress.add_task("", total=None)

        def found_difference(difference: Difference) -> None:
            if output.is_json:
                found.append(difference._asdict())
            else:
                _say(progress, _difference_line(difference))

        def advance(tally: Tally) -> None:
            description = f"{tally.read_sequence:,} events read, {tally.events:,} folded again"
            done, total = tally.read_sequence + tally.events, 2 * tally.end_sequence
            progress.update(task, completed=done, total=total, description=description)

        tally = run_folding(
            run_verify(settings, Listener(difference=found_difference, progress=advance), scope)
        )
    seconds = time.monotonic() - begun
    if target and not (tally.documents or tally.events or tally.differences):
        raise Refused("nothing_found", f"the log has no event of {target}, the projection no row")
    if output.is_json:
        json_line({**_facts(tally, seconds), "found": found})
    else:
        _say_verified(tally, seconds)
    if tally.differences:
        raise typer.Exit(REFUSED)


@expanded
def rebuild(
    output: Output,
    into: IntoOption = None,
    processes: ProcessesOption = None,
    is_from_nothing: Annotated[
        bool,
        typer.Option(
            "--from-nothing",
            help="For a damaged projection: compare nothing and keep it under another name. "
            "Starts the folder's servers if no system runs.",
        ),
    ] = False,
    data: DataOption = None,
) -> None:
    """Rebuild the projection from the log beside the live one, and swap both.

    They are compared first; on a difference nothing is swapped.
    """
    from refold.audit.rebuild import Listener
    from refold.cli.errors import REFUSED
    from refold.wiring.audit import run_rebuild
    from refold.wiring.service import run_folding

    if is_from_nothing:
        _rebuild_from_nothing(data, into, processes, is_json=output.is_json)
        return
    settings = _reach(data)
    schema = into or f"{settings.postgres_schema}_rebuild"
    found: list[dict[str, Any]] = []
    begun = time.monotonic()
    with working() as progress:
        task = progress.add_task("", total=None)

        def found_difference(unequal: Unequal) -> None:
            if output.is_json:
                found.append(_plain(unequal))
            else:
                _say(progress, _unequal_line(unequal))

        advance = _advancing(progress, task)
        ended = run_folding(
            run_rebuild(
                settings, schema, Listener(difference=found_difference, progress=advance), processes=processes
            )
        )
    seconds = time.monotonic() - begun
    if output.is_json:
        json_line(_ending(ended, seconds) | {"found": found})
    else:
        _say_rebuilt(ended, schema, seconds)
    if not ended.is_swapped:
        raise typer.Exit(REFUSED)


def _rebuild_from_nothing(
    data: Path | None, into: str | None, processes: int | None, *, is_json: bool
) -> None:
    from refold.audit.rebuild import Listener
    from refold.telemetry.logging import configure
    from refold.wiring.audit import run_from_nothing
    from refold.wiring.service import run_folding

    configure("error", service="refold")
    begun = time.monotonic()
    with working() as progress:
        listener = Listener(
            difference=lambda _: None, progress=_advancing(progress, progress.add_task("", total=None))
        )
        ended, kept = run_folding(run_from_nothing(data, into, listener, processes=processes))
    seconds = time.monotonic() - begun
    if is_json:
        json_line(_ending(ended, seconds) | {"kept": kept or None})
        return
    rate = _rate(ended.replayed_events, seconds)
    replayed = f"{ended.replayed_events:,} events replayed in {seconds:.1f} s ({rate})"
    say(f"rebuilt from the log to sequence {ended.sequence:,}: {replayed}", "green")
    if kept:
        say(f"The damaged projection is kept as schema {kept}; drop it when you no longer need it.")


def _reach(data: Path | None) -> Settings:
    """Find the running system. Raises `ServiceUnavailable` at once where its servers do not listen."""
    from refold.wiring.servers import reach

    settings = reach(data)
    silent = [url for url in map(settings.required, ("nats_url", "postgres_url")) if not _listens(url)]
    if not silent:
        return settings
    from refold.telemetry import redacted_text

    addresses = redacted_text(", ".join(silent))
    message = f"no system runs there: nothing listens at {addresses}; start it with `refold up`"
    raise ServiceUnavailable(message, missing=str(settings.data))


def _listens(url: str) -> bool:
    """Tell whether one of the servers of a URL takes connections."""
    import socket
    from contextlib import suppress
    from urllib.parse import urlsplit

    for address in url.split(","):
        split = urlsplit(address)
        usual = 4222 if split.scheme in {"nats", "tls"} else 5432
        with (
            suppress(OSError),
            socket.create_connection((split.hostname or "127.0.0.1", split.port or usual), LISTENS_SECONDS),
        ):
            return True
    return False


def _advancing(progress: Progress, task: TaskID) -> Callable[[Stage, int, int], None]:
    def advance(stage: Stage, sequence: int, until: int) -> None:
        description = f"{stage.value}, {sequence:,} of {until:,} events"
        progress.update(task, completed=sequence, total=until, description=description)

    return advance


def _say(progress: Progress, line: str) -> None:
    """Print a line of the result on stdout without breaking the bar."""
    from rich.text import Text

    from refold.cli.output import console

    out = progress.console if sys.stdout.isatty() and not progress.disable else console()
    out.print(Text(printable(line)), soft_wrap=True)


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
    told = {name: side._asdict() if isinstance(side, tuple) else side for name, side in sides.items()}
    return {"namespace": unequal.namespace, "document": unequal.document, **told}


def _facts(tally: Tally, seconds: float) -> dict[str, Any]:
    return {
        "sequence": tally.end_sequence,
        "documents": tally.documents,
        "events": tally.events,
        "differences": tally.differences,
        "seconds": round(seconds, 3),
    }


def _say_verified(tally: Tally, seconds: float) -> None:
    rate = _rate(tally.read_sequence, seconds)
    held = f"{tally.documents:,} documents, {tally.events:,} events, up to sequence {tally.end_sequence:,}"
    result = f"{tally.differences:,} differences" if tally.differences else "clean"
    say(f"{result}: {held}, in {seconds:.1f} s ({rate})", "red" if tally.differences else "green")


def _ending(ended: Rebuilt, seconds: float) -> dict[str, Any]:
    return {
        "swapped": ended.is_swapped,
        "sequence": ended.sequence,
        "replayed": ended.replayed_events,
        "differences": ended.differences,
        "held_seconds": round(ended.held_seconds, 3),
        "seconds": round(seconds, 3),
    }


def _say_rebuilt(ended: Rebuilt, schema: str, seconds: float) -> None:
    rate = _rate(ended.replayed_events, seconds)
    replayed = f"{ended.replayed_events:,} events replayed in {seconds:.1f} s ({rate})"
    if ended.is_swapped:
        held = f"{ended.held_seconds * 1_000:,.0f} ms"
        say(f"equal and swapped at sequence {ended.sequence:,}: {replayed}, live held for {held}", "green")
    else:
        say(f"{ended.differences:,} differences, nothing swapped: {replayed}; it is kept in {schema}", "red")


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds if seconds else 0.0:,.0f} events/s"


COMMANDS = {"verify": verify, "rebuild": rebuild}
