"""AG-UI's shared state: what a posted state edits, and what its clients fold as RFC 6902 says. Pure.

For `refold.gateway.agui` and `refold.client.agui`. What is said of clients was read in `@ag-ui/client` 1.0.0, which
folds with `fast-json-patch`: it skips a delta that it cannot apply, with a warning, and goes on with another state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from refold.core.diff import diff, identities, pair_by_turns, pair_equal, places_left
from refold.core.document import ABSENT
from refold.core.errors import RefoldError, Refused
from refold.core.fold import NEWEST
from refold.core.json_text import Json, check_lenient, dumps, loads_leniently, shape_of
from refold.core.pointer import parse
from refold.core.replay import apply_accepted

EVENT_TYPE: Final = "agui.state"
"""The type of the event that a posted state becomes."""

STAMP_PATTERN: Final = r"^_?[A-Za-z][A-Za-z0-9_-]{0,62}$"
"""The names that a stamp may have: they need no escape in a pointer, and none is `__proto__`."""

OPERATIONS: Final = frozenset({"add", "remove", "replace", "move", "copy"})
"""What a delta may have: clients leave out an operation that they do not know."""

_BANNED: Final = (("__proto__",), ("constructor", "prototype"))
_NUMBERS: Final = frozenset({int, float})


NOTHING: Final = object()
"""A run's input has no state."""


class StampTaken(RefoldError, code="stamp_taken"):
    """The document has a member of the stamp's name: choose another name."""


def bounded_id(text: str) -> str:
    """Return an id of an event or a session: the text, or its digest where it is too long for one."""
    return text if len(text) <= NEWEST.limits.id_chars else f"agui:{sha256(text.encode()).hexdigest()}"


def run_event_id(thread_id: str, run_id: str) -> str:
    """Return the id of the event that a run's posted state becomes. No two runs have the same one."""
    # The first colon ends the thread's id: without an escape, `x` and `y:z` would have that of `x:y` and `z`.
    thread = thread_id.replace("%", "%25").replace(":", "%3A")
    return bounded_id(f"agui:{thread}:{run_id}")


class Posted(NamedTuple):
    """A state that a client posted, without its stamp, and the version that it was made from where that is known."""

    state: Json
    base: int | None


def read_posted(state: Json, *, base: int | None, stamp: str | None) -> Posted:
    """Take the stamp out of a posted state. It is the base: the client folded it, `base` was given beside it."""
    if stamp is None or type(state) is not dict or stamp not in state:
        return Posted(state, base)
    rest = {name: value for name, value in state.items() if name != stamp}
    is_version = type(state[stamp]) is int and state[stamp] >= 0
    return Posted(rest, state[stamp] if is_version else base)


def add_stamp(state: Json, stamp: str | None, version: int) -> Json:
    """Return a state with its version as the member `stamp`; one that is no object as it is. Raises `StampTaken`."""
    if stamp is None or type(state) is not dict:
        return state
    if stamp in state:
        raise StampTaken(field="stamp")
    return {**state, stamp: version}


def find_edits(base: Json, state: Json) -> list[dict[str, Json]]:
    """Return the patch that turns the base into a posted state, but for numbers that a client could not keep.

    JavaScript returns 1.0 as 1, and 2^53+1 as 2^53. Numbers with the same nearest double are equal here, so that what
    the user did not touch is not written. Neither may be deeper than a state.
    """
    return diff(base, _restore(base, state))


def _restore(base: Json, state: Json) -> Json:
    """Return a posted value with the numbers of the base where they have the same nearest double."""
    kinds = type(base), type(state)
    if kinds == (dict, dict):
        return {name: _restore(base[name], value) if name in base else value for name, value in state.items()}
    if kinds == (list, list):
        return _restore_elements(base, state)
    if _NUMBERS.issuperset(kinds) and float(base) == float(state):
        return base
    return state


def _restore_elements(base: list[Json], state: list[Json]) -> list[Json]:
    """Pair equal elements first, then those of one identity, then those of one type in their order."""
    pairs = pair_equal([dumps(_as_doubles(it)) for it in base], [dumps(_as_doubles(it)) for it in state])
    for key in (identities, _types):
        free = [places_left(items, pairs, side) for side, items in enumerate((base, state))]
        pairs += pair_by_turns(key(base, free[0]), key(state, free[1]))
    restored = list(state)
    for i, j in pairs:
        restored[j] = _restore(base[i], state[j])
    return restored


def _types(items: list[Json], places: list[int]) -> Iterable[tuple[type, int]]:
    return ((type(items[place]), place) for place in places)


def _as_doubles(value: Json) -> Json:
    if type(value) is dict:
        return {name: _as_doubles(member) for name, member in value.items()}
    if type(value) is list:
        return [_as_doubles(element) for element in value]
    # Adding zero makes 0.0 of -0.0.
    return float(value) + 0.0 if type(value) in _NUMBERS else value


def make_delta(patch: Sequence[Json], stamp: str | None = None) -> list[Any] | None:
    """Return a change's operations as a delta; None where clients need a snapshot instead.

    A `test` is left out: it changes nothing. Raises `StampTaken` where the change is to the stamp's member.
    """
    delta = [operation for operation in patch if operation["op"] != "test"]
    places = [
        [parse(operation[name]) for name in ("path", "from") if name in operation] for operation in delta
    ]
    if stamp is not None and any(tokens[:1] == (stamp,) for named in places for tokens in named):
        raise StampTaken(field="stamp")
    is_foldable = all(map(_is_foldable, delta, places))
    return delta if is_foldable else None


def _is_foldable(operation: Json, places: list[tuple[str, ...]]) -> bool:
    """Tell whether clients apply an operation as RFC 6902 says.

    They refuse some names, to protect JavaScript's prototypes; they look up the path of a `move` before the value is
    taken away, the RFC after. One on the root is a state anyway, and replaces the stamp.
    """
    if operation["op"] not in OPERATIONS or not all(places):
        return False
    if any(
        tokens[at : at + len(it)] == it for tokens in places for it in _BANNED for at in range(len(tokens))
    ):
        return False
    if operation["op"] != "move":
        return True
    path, source = places
    return not (len(path) > len(source) and path[: len(source) - 1] == source[:-1] and source[-1].isdigit())


def whole_state(patch: Sequence[Json]) -> Json:
    """Return the state that a change makes whatever was before; `NOTHING` where it depends on that.

    It is `ABSENT` after a delete. The patch's values become part of it.
    """
    roots = [number for number, operation in enumerate(patch) if operation["path"] == ""]
    roots = [number for number in roots if patch[number]["op"] in {"add", "replace", "remove"}]
    if not roots:
        return NOTHING
    operation, rest = patch[roots[-1]], patch[roots[-1] + 1 :]
    state = operation.get("value", ABSENT)
    return apply_accepted({} if state is ABSENT else state, rest) if rest else state


# --- Input -----------------------------------------------------------------------------------------------


class RunInput(NamedTuple):
    """A `RunAgentInput`, as far as it is used here; `refusal` is why no document can have the state."""

    thread_id: str
    run_id: str
    state: Json
    refusal: Refused | None
    options: dict[str, str]


def read_run_input(body: bytes) -> RunInput:
    """Read a run's input leniently: its state is compared, not kept. Raises `Refused` where it is none."""
    given = loads_leniently(body)
    if type(given) is not dict:
        raise Refused("bad_field", "a RunAgentInput is an object", field="body", shape=shape_of(given))
    state = given.get("state", NOTHING)
    properties = given.get("forwardedProps")
    options = properties.get("refold") if type(properties) is dict else None
    return RunInput(
        thread_id=_id(given, "threadId"),
        run_id=_id(given, "runId"),
        state=state,
        refusal=None if state is NOTHING else _refusal_of(state),
        options=_option_texts(options),
    )


def _id(given: dict[str, Json], name: str) -> str:
    value = given.get(name)
    if type(value) is not str or not value:
        raise Refused("bad_field", "must be a string that is not empty", field=name, shape=shape_of(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        rule = "half of a surrogate pair stands alone"
        raise Refused("lone_surrogate", rule, field=name, shape=shape_of(value)) from error
    return value


def _refusal_of(state: Json) -> Refused | None:
    """Return why no document can have a state; None where one can."""
    try:
        check_lenient(state, NEWEST.limits.depth)
    except Refused as refused:
        return refused
    return None


def _option_texts(options: Json) -> dict[str, str]:
    """Return the options of `forwardedProps.refold` as the query string has them."""
    if options is None:
        return {}
    if type(options) is not dict:
        rule = "the options are an object"
        raise Refused("bad_field", rule, field="forwardedProps.refold", shape=shape_of(options))
    return {
        name: value if type(value) is str else dumps(value).decode()
        for name, value in options.items()
        if value is not None
    }
