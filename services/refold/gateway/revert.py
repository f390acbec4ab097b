"""The route that goes back: to the state at a version, or by what one version did. Part of `refold.gateway.app`.

Both are forward events, published as any other write. An undo is the inverse of a version's effect with that version as
its base: the fold resolves it against what came since as it resolves any stale event.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.event import VERSION_MAX
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.history import Clock, Point
from refold.core.json_text import Json, shape_of
from refold.gateway.context import Context, context_of
from refold.gateway.documents import Begun, begin_write, write_change
from refold.gateway.requests import check_media_type, read_json, read_wait
from refold.gateway.responses import JSON, Problem, Response
from refold.gateway.writes import head_version, wait_until_folded, write_deadline

_WHOLE: Final = (
    'write or delete it yourself, bring back a state with {"version": N}, or undo with last_write_wins'
)

FOLD_MIN: Final = 2
"""Before it, an event has no field `reverts`."""


async def revert_document(request: Request) -> Response:
    """Write the state at a version again, or undo what one version did."""
    begun = begin_write(request)
    check_media_type(request, (JSON,))
    kind, version = _target(await read_json(request))
    hint = ""
    context = context_of(request)
    deadline = write_deadline(read_wait(request, context.wait_seconds))
    await wait_until_folded(context, begun.key, version, deadline)
    if kind == "undo":
        change = await _undo(context, begun, version)
        if change.get("on_conflict") == "reject":
            what = f"undo of version {version} replaces the whole document"
            hint = f"{what}, and would keep nothing of it: {_WHOLE}"
    else:
        state = (await context.history.snapshot(*begun.key, Point(Clock.version, version))).state
        change = {"delete": True} if state is None else {"put": json_text.loads(state)}
    checkpoints = await context.store.checkpoints()
    if max((checkpoint.fold for checkpoint in checkpoints), default=0) >= FOLD_MIN:
        change["reverts"] = version
    for name in ("base", "reverts"):
        value = change.get(name)
        if value is not None and begun.fields.get(name, value) != value:
            rule = f"the body says that it is {value}: leave it out"
            raise Refused("contradictory", rule, field=f"refold-{name}", shape=str(begun.fields[name]))
    return await write_change(request, begun, change, conflict_hint=hint)


def _target(body: Json) -> tuple[str, int]:
    """Read `{"version": N}` or `{"undo": N}`."""
    rule = '{"version": N} brings back the state at version N, {"undo": N} undoes what version N did'
    if type(body) is not dict or len(body) != 1 or body.keys() - {"version", "undo"}:
        raise Refused("bad_field", rule, field="body", shape=shape_of(body))
    [(kind, version)] = body.items()
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise Refused("bad_field", "a version is an integer from 1", field=kind, shape=shape_of(version))
    return kind, version


async def _undo(context: Context, begun: Begun, version: int) -> dict[str, Json]:
    """Return the event's change and base. Refuse what the fold would not resolve, or not as it is meant."""
    whole = "revert to a version instead"
    if "session" in begun.fields:
        rule = f"an undo means the state right after version {version}, which no later event of a session is part of"
        raise Refused("contradictory", f"{rule}: leave the header out", field="refold-session")
    behind = await head_version(context, begun.key) - version
    versions_max = NEWEST.limits.window_versions
    assert versions_max is not None
    if behind > versions_max:
        detail = f"undo: version {version} is {behind} versions behind the head, of at most {versions_max}: {whole}"
        raise Problem(422, "base_too_old", detail, field="undo")
    change = {**await context.history.inverse_of(*begun.key, version), "base": version}
    if "patch" not in change and _keeps_others(begun.fields.get("on_conflict"), change):
        # A whole document is deleted or put, where the others' changes cannot be told apart.
        change["on_conflict"] = "reject"
    bytes_count = json_text.size({**begun.fields, **change, "reverts": version})
    if bytes_count > EVENT_BYTES_MAX:
        rule = f"what undoes the version is an event of at most {EVENT_BYTES_MAX} bytes: {whole}"
        raise Refused("event_too_large", rule, field="undo", shape=f"{bytes_count} bytes")
    return change


def _keeps_others(strategy: Json, change: dict[str, Json]) -> bool:
    """Tell whether a strategy asks to keep what others wrote, and does not where a whole document is written."""
    return strategy is None or (strategy == "merge" and "delete" in change)
