"""One line of an import: `{"doc", "state", "ts", "actor"?, "meta"?, …}`, checked.

Only `refold.client.importing` may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.core.limits import VERSION_MAX
from refold.core.record import check_name
from refold.core.shape import shape_of
from refold.core.timestamp import format_time, parse_time

FIELDS: Final = frozenset({"doc", "state", "ts", "actor", "meta", "version", "present"})
EXPORT_FIELDS: Final = FIELDS | {"type"}
"""A line with a version is an export's: its type is the event's own; of other lines it goes into meta."""

IMPORT: Final = "import"
ORIGIN: Final = "origin"
"""Members of meta, and of the note under it: from which file and line an event came; from which at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A document's whole state after one change; `ABSENT` where the change removed it. `text` is the line itself.

    `version`: it comes from an export, is an event even where it changes nothing, and makes this very version.
    """

    number: int
    text: bytes
    document: str
    state: Json
    occurred_at: str
    actor: str | None
    meta: dict[str, Json]
    version: int | None
    type: str | None


def parse_line(number: int, text: bytes) -> Line:
    """Read a line, or raise `Refused` naming field, rule and shape."""
    fields = canonical.loads(text)
    if not isinstance(fields, dict):
        raise Refused("bad_line", "a line is a JSON object", shape=shape_of(fields))
    for name in ("doc", "state", "ts"):
        if name not in fields:
            raise Refused("bad_line", "must be there", field=name, shape="nothing")
    version = _version(fields)
    return Line(
        number=number,
        text=text,
        document=check_name(_text(fields["doc"], "doc"), "doc"),
        state=_state(fields),
        occurred_at=_time(fields["ts"]),
        actor=_said(fields, "actor"),
        meta=_meta(fields, FIELDS if version is None else EXPORT_FIELDS),
        version=version,
        type=None if version is None else _said(fields, "type"),
    )


def _state(fields: dict[str, Json]) -> Json:
    """Null means deleted, unless the line says that it is a state."""
    return ABSENT if fields["state"] is None and fields.get("present") is not True else fields["state"]


def _time(value: Json) -> str:
    if isinstance(value, str):
        return format_time(parse_time(value, "ts"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_time(parse_time(_digits(value), "ts"))
    raise Refused("bad_time", "must be unix seconds or RFC 3339", field="ts", shape=shape_of(value))


def _digits(value: float) -> str:
    text = repr(value)
    return format(value, ".9f") if "e" in text else text


def _version(fields: dict[str, Json]) -> int | None:
    if "version" not in fields:
        return None
    version = fields["version"]
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise Refused("bad_line", "must be an integer from 1", field="version", shape=shape_of(version))
    return version


def _meta(fields: dict[str, Json], known: frozenset[str]) -> dict[str, Json]:
    given = fields.get("meta")
    if given is not None and not isinstance(given, dict):
        raise Refused("bad_line", "must be an object", field="meta", shape=shape_of(given))
    others = {name: value for name, value in fields.items() if name not in known}
    meta = dict(given or {})
    for name, value in others.items():
        if name in meta and not canonical.equal(meta[name], value):
            raise Refused("contradictory", "the line and its meta differ", field=name, shape=shape_of(value))
        meta[name] = value
    return meta


def _said(fields: dict[str, Json], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields[name], name)


def _text(value: Json, field: str) -> str:
    if not isinstance(value, str):
        raise Refused("bad_line", "must be a string", field=field, shape=shape_of(value))
    return value
