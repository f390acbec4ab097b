"""The settings of a namespace: how its events are folded, from the event that sets them on.

They are a document of the system's namespace, `settings:NAMESPACE`, that is put whole: `{"on_conflict", "limits",
"schema", "feed"}`, each optional. `{}` sets the defaults again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NoReturn

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.event import check_strategy
from refold.core.json_text import Json, shape_of
from refold.core.pointer import escape
from refold.core.schema import Schema
from refold.core.stream import SYSTEM_DOCUMENTS, check_namespace
from refold.core.undo_log import RootCheck

SETTINGS_PREFIX: Final = "settings:"
"""Of the documents that have settings; the rest of the id is the namespace, at most 119 characters."""

SETTINGS_FOLD: Final = 2
"""The first fold number under which a log has settings."""

SETTINGS_KEPT_MAX: Final = 8
"""So many of a namespace's settings are kept, for members of a transaction that were checked under earlier ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A namespace's settings. `limits` has those that are lower than the fold number's."""

    on_conflict: str = "last_write_wins"
    limits: dict[str, int]
    schema: Schema | None = None
    feed: bool = False

    def lowered(self, limits: Limits) -> Limits:
        """Return the limits for the namespace's events."""
        lower = {name: min(value, getattr(limits, name)) for name, value in self.limits.items()}
        return replace(limits, **lower) if lower else limits

    @property
    def check(self) -> RootCheck | None:
        """A function that refuses a state which the schema does not allow; None where there is no schema."""
        return None if self.schema is None else partial(_check_state, self.schema)


DEFAULTS: Final = Settings(limits={})


def _check_state(schema: Schema, state: Json) -> None:
    violation = schema.violation(state)
    if violation is not None:
        message = f"the namespace's schema does not allow the value ({violation.keyword})"
        raise Refused("schema", message, field=f"state{violation.pointer}")


class SettingsInForce:
    """The settings of all namespaces, as the log has set them so far."""

    __slots__ = ("_by_namespace",)

    def __init__(self) -> None:
        self._by_namespace: dict[str, list[tuple[int, Settings]]] = {}

    def set(self, namespace: str, sequence: int, settings: Settings) -> None:
        """Put settings in force from the event after the one that sets them."""
        kept = self._by_namespace.setdefault(namespace, [(0, DEFAULTS)])
        kept.append((sequence, settings))
        del kept[:-SETTINGS_KEPT_MAX]

    def latest(self) -> dict[str, Settings]:
        """Return the settings in force of each namespace that ever had any."""
        return {namespace: kept[-1][1] for namespace, kept in self._by_namespace.items()}

    def at(self, namespace: str, sequence: int) -> Settings | None:
        """Return the settings that the event at a sequence set, the defaults for 0; None where they are not kept."""
        kept = self._by_namespace.get(namespace, [(0, DEFAULTS)])
        return next((settings for set_at, settings in kept if set_at == sequence), None)


def is_system_document(document: str) -> bool:
    """Tell whether a document of the system's namespace says how other documents are folded."""
    return document in SYSTEM_DOCUMENTS or document.startswith(SETTINGS_PREFIX)


def read_settings(document: str, state: Json, limits: Limits) -> Settings:
    """Read the state of a settings document under a fold number's limits. Raises `Refused`, naming the member."""
    check_namespace(document.removeprefix(SETTINGS_PREFIX))
    if type(state) is not dict:
        _refuse("", "settings are an object", state)
    unknown = state.keys() - _MEMBERS
    if unknown:
        name = min(unknown)
        _refuse(f"/{escape(name)}", f"settings have the members {', '.join(sorted(_MEMBERS))}", state[name])
    feed = state.get("feed", False)
    if type(feed) is not bool:
        _refuse("/feed", "feed is true or false", feed)
    return Settings(
        on_conflict=_read_strategy(state),
        limits=_read_limits(state.get("limits", {}), limits),
        schema=_read_schema(state["schema"]) if "schema" in state else None,
        feed=feed,
    )


def _read_strategy(state: dict[str, Json]) -> str:
    try:
        return check_strategy(state.get("on_conflict", DEFAULTS.on_conflict))
    except Refused as refused:
        _refuse("/on_conflict", refused.message, state["on_conflict"])


def _read_limits(state: Json, limits: Limits) -> dict[str, int]:
    if type(state) is not dict:
        _refuse("/limits", "limits are an object", state)
    for name, value in sorted(state.items()):
        where = f"/limits/{escape(name)}"
        if name not in _LIMITS:
            _refuse(where, f"a namespace has the limits {', '.join(sorted(_LIMITS))}", value)
        most = getattr(limits, name)
        if type(value) is not int or not 1 <= value <= most:
            _refuse(where, f"{name} is an integer from 1 to {most}", value)
    return dict(state)


def _read_schema(source: Json) -> Schema:
    try:
        return Schema(source)
    except Refused as refused:
        refused.field = f"/schema{refused.field}"
        refused.reason = _REASON
        raise


def _refuse(pointer: str, rule: str, value: Json) -> NoReturn:
    raise Refused(_REASON, rule, field=pointer, shape=shape_of(value))


_REASON: Final = "bad_system_event"
_MEMBERS: Final = frozenset({"on_conflict", "limits", "schema", "feed"})
_LIMITS: Final = frozenset({"depth", "operations", "state_bytes", "copy_bytes", "shifts", "event_bytes"})
