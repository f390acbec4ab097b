"""Commands that move whole namespaces: import, export. Loaded by `refold.cli`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path
from shutil import copyfileobj
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from refold.cli.errors import INTERRUPTED, REFUSED
from refold.cli.options import AtOption, NamespaceArgument, Output, System
from refold.cli.output import json_line, print_beside, say, working
from refold.core import json_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from refold.core.errors import Refused
    from refold.transfer import Target
    from refold.transfer.exporter import ExportListener, ExportTally, Source
    from refold.transfer.importer import ImportListener, ImportTally

COMPLAINTS_MAX: Final = 1_000
"""Refused lines that are named one by one; further ones are only counted."""


async def import_(
    namespace: NamespaceArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Plain, .zst or .gz; - for plain lines on stdin.")
    ],
    system: System,
    output: Output,
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Check and count all lines, write nothing.")
    ] = False,
    stops_on_error: Annotated[
        bool, typer.Option("--stop-on-error", help="Stop at the first refused line; by default skip it.")
    ] = False,
    takes_older: Annotated[
        bool,
        typer.Option("--allow-older", help="Import also lines older than what another file brought."),
    ] = False,
) -> None:
    """Import a history from a file of JSON lines.

    One object a line, the oldest first: {"doc": ID, "state": VALUE, "ts": TIME, "actor"?: …, "meta"?: {…}}. It is the
    document's whole state at that time; null means deleted. TIME is RFC 3339 or unix seconds. Other members are kept
    in meta. A line becomes an event with what has changed; a line without a change becomes none.

    Run the command again after an interruption: it continues where it stopped. Import a file again, too, once a line of
    it was mended or lines were added: those that were imported before are not repeated, and a new line replaces its
    document's state. One that is older than what another file brought into its document is refused, because no version
    is inserted into a history; --allow-older makes it the newest. Lines of `refold export --history` also restore their
    versions.
    """
    from refold.transfer.importer import import_file

    begun = time.monotonic()
    try:
        with _seekable(file) as path, working() as progress:
            listener = _import_listener(progress, file)
            async with system.client() as refold:
                tally = await import_file(
                    refold,
                    namespace,
                    path,
                    listener,
                    is_dry=is_dry,
                    stops_on_error=stops_on_error,
                    takes_older=takes_older,
                )
    except asyncio.CancelledError:
        say("stopped; run the same command again to continue", is_error=True)
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.monotonic() - begun
    if output.is_json:
        names = ("lines", "events", "unchanged", "present", "refused")
        facts = {name: getattr(tally, name) for name in names}
        json_line({**facts, "seconds": round(seconds, 3)})
    else:
        say(_summary(tally, seconds, is_dry=is_dry))
    if tally.refused:
        raise typer.Exit(REFUSED)


async def export(
    namespace: NamespaceArgument,
    system: System,
    output: Output,
    at: AtOption = None,
    is_history: Annotated[
        bool, typer.Option("--history", help="Every version of every document, deleted ones included.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="FILE",
            help="A file, packed by its suffix (.zst, .gz); by default stdout.",
        ),
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    is_replayed: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Read the log instead of a store: for the past where the only store is Redis.",
        ),
    ] = False,
) -> None:
    """Export a namespace as JSON lines, all as of one moment.

    `refold import` reads them back. The summary goes to stderr.

    With --replay, the log up to that moment is folded into a temporary database (in TMPDIR, removed afterwards), and
    the lines are those of a store that keeps every version. It works beside any store, and connects to NATS as
    `refold verify` does: found by --data or REFOLD_NATS_URL, not by --url.
    """
    from refold.transfer.exporter import export

    begun = time.monotonic()
    try:
        with working() as progress:
            # The lines themselves would disturb the bar.
            progress.disable |= out is None and sys.stdout.isatty()
            source = _replayed(progress, system.data, namespace, at) if is_replayed else system.client()
            listener = _export_listener(progress)
            async with _target(out, is_forced=is_forced) as target, source as found:
                tally = await export(found, namespace, target.write, listener, at=at, is_history=is_history)
    except asyncio.CancelledError:
        say("stopped; the export is not complete", is_error=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader has enough; typer would call it a failure.
        raise typer.Exit from None
    seconds = time.monotonic() - begun
    # stdout is for the lines.
    if output.is_json:
        names = ("documents", "lines", "bytes", "sequence")
        facts = {name: getattr(tally, name) for name in names} | {"seconds": round(seconds, 3)}
        say(json_text.dumps(facts).decode(), is_error=True)
    else:
        rate = f"{tally.lines / seconds:,.0f} lines/s, {tally.bytes / 1e6 / seconds:,.1f} MB/s"
        text = f"{_counts(tally)} as of sequence {tally.sequence} in {seconds:.1f} s ({rate})"
        say(text, is_error=True)


@contextmanager
def _seekable(file: Path) -> Iterator[Path]:
    """Return the file; a copy of stdin for `-`, because an import reads its file twice."""
    if str(file) != "-":
        if not (file.is_file() and os.access(file, os.R_OK)):
            raise typer.BadParameter(f"{file} is not a file that can be read")
        yield file
        return
    with NamedTemporaryFile(prefix="refold-import-") as copy:
        copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _import_listener(progress: Progress, file: Path) -> ImportListener:
    from refold.transfer.importer import ImportListener

    task = progress.add_task("", total=None)
    complaints = 0

    def refused(number: int, why: Refused) -> None:
        nonlocal complaints
        complaints += 1
        if complaints <= COMPLAINTS_MAX:
            print_beside(progress, f"{file}:{number}: {why.reason}: {why}")
        if complaints == COMPLAINTS_MAX:
            print_beside(progress, "further refused lines are only counted")

    def advanced(tally: ImportTally) -> None:
        description = f"{tally.lines:,} lines, {tally.events:,} events"
        progress.update(task, completed=tally.read_bytes, total=tally.size_bytes, description=description)

    return ImportListener(
        refused=refused,
        progress=advanced,
        waiting=lambda error: print_beside(progress, f"waiting: {error}"),
    )


def _summary(tally: ImportTally, seconds: float, *, is_dry: bool) -> str:
    parts = [f"{tally.lines:,} lines", f"{tally.events:,} events", f"{tally.unchanged:,} unchanged"]
    parts += [f"{tally.present:,} already there"] if tally.present else []
    parts += [f"{tally.refused:,} refused"] if tally.refused else []
    counts = ", ".join(parts)
    if is_dry:
        return f"{counts}; nothing was written (--dry-run)"
    return f"{counts} in {seconds:.1f} s ({tally.events / seconds:,.0f} events/s)"


def _target(out: Path | None, *, is_forced: bool) -> AbstractAsyncContextManager[Target]:
    from refold.transfer import Target, target_file

    if out is not None:
        return target_file(out, is_replaced=is_forced)
    # Below Python's buffer, so that nothing is left in it when the reader is gone.
    stream: Any = sys.stdout.buffer
    return nullcontext(Target(getattr(stream, "raw", stream), "stdout"))


def _replayed(
    progress: Progress, data: Path | None, namespace: str, at: str | None
) -> AbstractAsyncContextManager[Source]:
    """Return a projection of the log up to a time; SIGTERM ends it as an interrupt does, and removes its files."""
    from refold.cli.audit import reach_servers
    from refold.wiring.audit import replayed

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    bar = progress.add_task("", total=None)

    def advanced(folded: int, end: int) -> None:
        description = f"{folded:,} of {end:,} events replayed"
        progress.update(bar, completed=folded, total=end, description=description)

    return replayed(reach_servers(data, lambda _: []), namespace, at, advanced)


def _export_listener(progress: Progress) -> ExportListener:
    from refold.transfer.exporter import ExportListener

    task = progress.add_task("", total=None)

    def advanced(tally: ExportTally) -> None:
        total = tally.expected_lines or None
        progress.update(task, completed=tally.lines, total=total, description=_counts(tally))

    return ExportListener(
        progress=advanced, waiting=lambda error: print_beside(progress, f"waiting: {error}")
    )


def _counts(tally: ExportTally) -> str:
    return f"{tally.lines:,} lines of {tally.documents:,} documents, {tally.bytes / 1e6:,.1f} MB"
