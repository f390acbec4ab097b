"""Commands that write: put, patch, merge, delete. Registered by `refold.cli.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from refold.cli.target import DocumentArgument, JsonOption, UrlOption, ask, read_json

if TYPE_CHECKING:
    from refold.client import Outcome
    from refold.client.about import About

PANEL = "Write"

ValueArgument = Annotated[
    str, typer.Argument(metavar="JSON", help="A file, - for stdin, or the JSON itself.")
]
StateArgument = Annotated[
    str, typer.Argument(metavar="STATE.json", help="A file, - for stdin, or the JSON itself.")
]
IfVersion = Annotated[
    int | None, typer.Option(min=0, help="Only while the document is at this version; 0 = never existed.")
]
Base = Annotated[int | None, typer.Option(min=0, help="The version that the change was made from.")]
EventId = Annotated[str | None, typer.Option("--id", help="The event's own id: sent twice, it counts once.")]
EventType = Annotated[str | None, typer.Option("--type", help="A name for what happened: order.paid")]
Actor = Annotated[str | None, typer.Option(help="Who did it.")]
OccurredAt = Annotated[str | None, typer.Option(metavar="TIME", help="When it happened; else now.")]
Meta = Annotated[str | None, typer.Option(metavar="JSON", help="An object that is kept with the event.")]
Wait = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Wait so long for the outcome.")]


def put(
    target: DocumentArgument,
    state: StateArgument,
    url: UrlOption = None,
    if_version: IfVersion = None,
    base: Base = None,
    event_id: EventId = None,
    event_type: EventType = None,
    actor: Actor = None,
    occurred_at: OccurredAt = None,
    meta: Meta = None,
    wait: Wait = None,
    is_json: JsonOption = False,
) -> None:
    """Write a document's whole state."""
    about = _about(if_version, base, event_id, event_type, actor, occurred_at, meta, wait)
    value = read_json(state, "state")
    _show(ask(url, lambda refold: refold.put(*target, value, **about)), is_json=is_json)


def patch(
    target: DocumentArgument,
    operations: ValueArgument,
    url: UrlOption = None,
    if_version: IfVersion = None,
    base: Base = None,
    event_id: EventId = None,
    event_type: EventType = None,
    actor: Actor = None,
    occurred_at: OccurredAt = None,
    meta: Meta = None,
    wait: Wait = None,
    is_json: JsonOption = False,
) -> None:
    """Apply a JSON Patch (RFC 6902), all or nothing."""
    about = _about(if_version, base, event_id, event_type, actor, occurred_at, meta, wait)
    value = read_json(operations, "patch")
    _show(ask(url, lambda refold: refold.patch(*target, value, **about)), is_json=is_json)


def merge(
    target: DocumentArgument,
    value: ValueArgument,
    url: UrlOption = None,
    if_version: IfVersion = None,
    base: Base = None,
    event_id: EventId = None,
    event_type: EventType = None,
    actor: Actor = None,
    occurred_at: OccurredAt = None,
    meta: Meta = None,
    wait: Wait = None,
    is_json: JsonOption = False,
) -> None:
    """Apply a merge patch (RFC 7396): members set to null go."""
    about = _about(if_version, base, event_id, event_type, actor, occurred_at, meta, wait)
    merged = read_json(value, "merge")
    _show(ask(url, lambda refold: refold.merge(*target, merged, **about)), is_json=is_json)


def delete(
    target: DocumentArgument,
    url: UrlOption = None,
    if_version: IfVersion = None,
    base: Base = None,
    event_id: EventId = None,
    event_type: EventType = None,
    actor: Actor = None,
    occurred_at: OccurredAt = None,
    meta: Meta = None,
    wait: Wait = None,
    is_json: JsonOption = False,
) -> None:
    """Make a document absent; its history stays."""
    about = _about(if_version, base, event_id, event_type, actor, occurred_at, meta, wait)
    _show(ask(url, lambda refold: refold.delete(*target, **about)), is_json=is_json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (put, patch, merge, delete):
        app.command(rich_help_panel=PANEL)(command)


def _about(
    if_version: int | None,
    base: int | None,
    event_id: str | None,
    event_type: str | None,
    actor: str | None,
    occurred_at: str | None,
    meta: str | None,
    wait: float | None,
) -> About:
    given: dict[str, Any] = {
        "if_version": if_version,
        "base": base,
        "id": event_id,
        "type": event_type,
        "actor": actor,
        "occurred_at": occurred_at,
        "meta": None if meta is None else read_json(meta, "meta"),
        "wait_seconds": wait,
    }
    about: About = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    return about


def _show(outcome: Outcome, *, is_json: bool) -> None:
    from refold.cli.failure import REFUSED
    from refold.cli.show import console, json_line, outcome_line
    from refold.client.values import as_json

    is_failed = not outcome.is_effective and outcome.status != "pending"
    if is_json:
        json_line(as_json(outcome))
    else:
        console(is_error=is_failed).print(outcome_line(outcome))
    if is_failed:
        raise typer.Exit(REFUSED)
