"""The command `demo`. Loaded by `refold.cli.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.status import Status

    from refold.client import Change, Document, Refold
    from refold.wiring.demo import Recording
    from refold.wiring.system import System

SHOWN_CHANGES = 5
SHOWN_OPERATIONS = 6
SHOWN_VERSIONS = 20


def demo(
    is_once: Annotated[bool, typer.Option("--once", help="Exit afterwards instead of serving.")] = False,
    seconds: Annotated[float, typer.Option(min=0.5, max=3_600, help="How long it records.")] = 10.0,
) -> None:
    """Record this machine's vital signs and look back at them."""
    import asyncio

    from refold.wiring.up import until_signal

    asyncio.run(until_signal(_demonstrate(seconds, is_once=is_once), _say))


async def _demonstrate(seconds: float, *, is_once: bool) -> None:
    import asyncio

    from refold.client import Refold
    from refold.wiring.demo import passing_system, record

    _title("Starting NATS, PostgreSQL, a projector and a gateway in a temporary folder")
    async with passing_system(_say) as system, Refold(system.http) as refold:
        _title(f"Recording this machine's vital signs for {seconds:g} seconds, ten times a second")
        with _status() as status:
            recording = await record(refold, seconds, lambda so_far: status.update(_counted(so_far)))
        await _tell(refold, recording)
        _farewell(system, is_once=is_once)
        if not is_once:
            await asyncio.Event().wait()


async def _tell(refold: Refold, recording: Recording) -> None:
    """Say what was done, then look into the past of one document in three ways."""
    from refold.wiring.demo import NAMESPACE

    told = await refold.status()
    _print(f"{_counted(recording)}, {recording.events / recording.seconds:,.0f} events/s")
    _print(
        f"published → folded in {recording.wait_seconds * 1000:,.1f} ms (median), "
        f"the fold is {told['lag_events']:,} events behind"
    )
    story = max(recording.versions, key=lambda document: recording.versions[document])
    last = recording.versions[story]
    _title("Every change is kept", f"refold history {NAMESPACE}/{story} --reverse --limit {SHOWN_CHANGES}")
    history = refold.history(NAMESPACE, story, limit=SHOWN_CHANGES, is_reversed=True)
    _changes([change async for change in history])
    first = max(1, last - SHOWN_VERSIONS)
    _title(f"What changed from version {first} to {last}", f"refold diff {NAMESPACE}/{story} {first} {last}")
    _operations(await refold.diff(NAMESPACE, story, first, last))
    middle = await refold.get(NAMESPACE, story, version=max(1, last // 2))
    _title("A look back in time", f"refold get {NAMESPACE}/{story} --at {middle.recorded_at}")
    _document(await refold.get(NAMESPACE, story, at=middle.recorded_at))


def _farewell(system: System, *, is_once: bool) -> None:
    if is_once:
        _title(f"Done. It was all at {system.http}, and is gone now")
        _print("keep one:  [bold]refold up[/]      explore this one:  [bold]refold demo[/] without --once")
        return
    _title(f"Explore it: {system.http}/docs", "Ctrl-C ends it, and its data")
    for command in ("status", "list machine", "history machine/memory --reverse"):
        _print(f"[bold]refold {command} --url {system.http}[/]")


def _counted(recording: Recording) -> str:
    documents, events = len(recording.versions), recording.events
    return f"[bold]{documents}[/] documents, [bold]{events:,}[/] events in {recording.seconds:.1f} s"


def _changes(changes: list[Change]) -> None:
    from refold.cli.output import change_summary, print_table, short_time

    rows = [(str(it.version), short_time(it.recorded_at), change_summary(it.patch)) for it in changes]
    print_table(("version", "recorded", "change"), rows)


def _operations(patch: list[Any]) -> None:
    for operation in patch[:SHOWN_OPERATIONS]:
        _json(operation)
    if len(patch) > SHOWN_OPERATIONS:
        _print(f"[dim]and {len(patch) - SHOWN_OPERATIONS} more[/]")


def _document(document: Document) -> None:
    from refold.cli.output import short_json

    _print(f"version {document.version}:")
    _text(short_json(document.state))


def _json(value: Any) -> None:
    from refold.cli.output import short_json

    _text(short_json(value))


def _title(text: str, command: str = "") -> None:
    from refold.cli.output import console

    console().print(f"\n[bold cyan]▸ {text}[/]" + (f"   [dim]{command}[/]" if command else ""))


def _print(text: str) -> None:
    from refold.cli.output import console

    console().print(f"  {text}")


def _text(text: str) -> None:
    """Print what others wrote: no markup in it means anything."""
    from rich.text import Text

    from refold.cli.output import console, printable

    console().print(Text(f"  {printable(text)}"))


def _say(line: str) -> None:
    _print(f"[dim]{line}[/]")


def _status() -> Status:
    from refold.cli.output import console

    return console().status("  starting")


COMMANDS = {"demo": demo}
