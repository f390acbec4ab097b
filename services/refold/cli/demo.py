"""The command `demo`. Loaded by `refold.cli.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from refold.client import Refold
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

    from refold.wiring.system import until_signal

    asyncio.run(until_signal(_demonstrate(seconds, is_once=is_once), _print_dim))


async def _demonstrate(seconds: float, *, is_once: bool) -> None:
    import asyncio

    from refold.cli.output import console
    from refold.client import Refold
    from refold.wiring.demo import record, temporary_system

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
    from refold.cli.output import change_summary, print_table, short_json, short_time
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
    rows = [(it.version, short_time(it.recorded_at), change_summary(it.patch)) async for it in history]
    print_table(("version", "recorded", "change"), rows)

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
    from refold.cli.output import say

    say("")
    say(f"▸ {text}" + (f"   {command}" if command else ""), "bold cyan")


def _print(text: str) -> None:
    from refold.cli.output import printable, say

    say(f"  {printable(text)}")


def _print_dim(line: str) -> None:
    from refold.cli.output import say

    say(f"  {line}", "dim")


COMMANDS = {"demo": demo}
