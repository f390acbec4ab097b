"""Updates of documents and of namespaces as they come. `Refold.watch` of the clients is the entry.

The messages are those of `schemas/live.schema.json`; each follows the one before, or is a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias, TypeVar

from refold.client.link import Link
from refold.client.requests import WatchOptions, did_you_mean
from refold.client.responses import Document, DocumentUpdate, NamespaceUpdate, Patch, read_answer
from refold.client.transport import Transport, document_path
from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import DocumentAbsent, LogDiffers, RefoldError, Refused, VersionUnknown
from refold.core.json_text import Json
from refold.core.pointer import index, parse, resolve
from refold.core.stream import check_name

VERSIONS_MAX: Final = 100_000
"""Documents of a namespace whose newest version is kept, to drop what is sent twice."""

_OF_DOCUMENT: Final = ("path", "depth")
_OF_NAMESPACE: Final = ("prefix", "type")

Update = TypeVar("Update", DocumentUpdate, NamespaceUpdate)
Take: TypeAlias = Callable[[dict[str, Any], str, str], Update | None]
"""Takes a message, the cursor after it and the one before; returns None where it has nothing new."""


def watch_namespace(
    transport: Transport, namespace: str, options: WatchOptions
) -> AsyncGenerator[NamespaceUpdate, None]:
    """Yield what changes in a namespace."""
    _refuse_options(options, _OF_DOCUMENT, "a document")
    fields = {"namespace": check_name(namespace, "namespace"), **_fields_of(options)}

    def query(after: int | None) -> dict[str, Json]:
        sub = fields if after is None else {**fields, "after": after}
        return {"sub": json_text.dumps(sub).decode()}

    return _updates(Link(transport, "/live/v1", query, _cursor_of(options)), NamespaceView().take)


def watch_document(
    transport: Transport,
    namespace: str,
    document: str,
    options: WatchOptions,
    read: Callable[[int], Awaitable[Document]],
) -> AsyncGenerator[DocumentUpdate, None]:
    """Yield a document's updates. `read` returns it, or the part of it, at a version."""
    _refuse_options(options, _OF_NAMESPACE, "a namespace")
    fields, cursor = _fields_of(options), _cursor_of(options)
    usual_mode = "values" if "*" in fields.get("path", "").split("/") else "patch"
    mode = fields.get("mode", usual_mode)
    if mode not in {"patch", "values"}:
        raise Refused(
            "bad_usage", "of a document it is patch or values; merge=False has each change", field="mode"
        )
    if mode == "patch":
        fields["ops"] = "native"
    elif cursor:
        raise Refused("bad_usage", "values begin with all that match: leave it out", field="after")
    _version_in(cursor)
    path = document_path(namespace, document, "live")
    texts = {name: str(it).lower() if isinstance(it, bool) else it for name, it in fields.items()}
    link = Link(transport, path, lambda after: {**texts, "after": after}, cursor)
    return _document_updates(link, read)


def _fields_of(options: WatchOptions) -> dict[str, Json]:
    """Return the options but `after` as a subscription's fields. Raises `TypeError` for one that is unknown."""
    for name in options.keys() - WatchOptions.__annotations__.keys():
        hint = did_you_mean(name, WatchOptions.__annotations__)
        raise TypeError(f"watch got an unexpected keyword argument {name!r}{hint}")
    fields: dict[str, Json] = {name: it for name, it in options.items() if name != "after" and it is not None}
    if "interval" in fields:
        fields["interval"] = round(fields["interval"] * 1_000)
    return fields


def _refuse_options(options: WatchOptions, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if options.get(name) is not None:
            raise Refused("bad_usage", f"only of {what}", field=name)


def _cursor_of(options: WatchOptions) -> str:
    after = options.get("after")
    return "" if after is None else str(after)


class OutOfStep(RefoldError, code="out_of_step"):
    """A message does not follow the one before."""


class Lost(OutOfStep):
    """A message does not apply to what came before: only a snapshot helps."""


async def _updates(link: Link, take: Take[Update]) -> AsyncGenerator[Update, None]:
    """Yield what `take` makes of the messages until the client is closed. Raises what permanently refuses them."""
    try:
        while received := await link.next():
            try:
                update = take(received.message, received.cursor, link.cursor)
            except OutOfStep as error:
                link.cursor = "" if isinstance(error, Lost) else link.cursor
                await link.recover(error)
                continue
            link.cursor = received.cursor
            if update is not None:
                yield update
    finally:
        link.close()


async def _document_updates(
    link: Link, read: Callable[[int], Awaitable[Document]]
) -> AsyncGenerator[DocumentUpdate, None]:
    """Yield a document's updates; `read` returns it at a version, from which the link begins."""
    view = DocumentView()

    async def begin() -> bool:
        version = _version_in(link.cursor)
        try:
            view.begin(version, (await read(version)).state if version else ABSENT)
        except VersionUnknown:
            # The log is another, or an older copy of it.
            link.cursor = ""
        except (DocumentAbsent, Refused) as error:
            if isinstance(error, Refused) and error.reason != "path_absent":
                raise
            view.begin(version, ABSENT)
        return True

    if link.cursor:
        await link.retrying(begin)
    async with aclosing(_updates(link, view.take)) as found:
        async for update in found:
            yield update


class NamespaceView:
    """Documents by their newest versions."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def take(self, message: dict[str, Any], cursor: str, before: str) -> NamespaceUpdate | None:
        """Take a message, whose document may be at that version already."""
        if message["kind"] == "reset":
            if before.isdecimal():
                rule = f"the log ends at {message['sequence']}"
                raise Refused("sequence_in_future", rule, field="after", shape=before)
            raise LogDiffers(
                "the log is another one: what was built from it is void, begin again with after=0"
            )
        if message["kind"] not in {"head", "change"}:
            return None
        document, version = message["document"], message["version"]
        known = self._versions.pop(document, 0)
        self._versions[document] = max(known, version)
        if len(self._versions) > VERSIONS_MAX:
            del self._versions[next(iter(self._versions))]
        return read_answer(NamespaceUpdate, message, cursor=cursor) if version > known else None


class DocumentView:
    """A document, or a part of it, at a version. States that were given out are not changed."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._state: Json = ABSENT

    def begin(self, version: int, state: Json) -> None:
        """Begin with the state at a version."""
        self._version, self._state = version, state

    def take(self, message: dict[str, Any], cursor: str, before: str) -> DocumentUpdate | None:
        """Take a message that follows the version, or a snapshot."""
        if message["kind"] == "snapshot":
            return self._take_snapshot(message, cursor)
        if message["kind"] not in {"change", "values"}:
            return None
        version, known = message["version"], self._version
        if known is None:
            raise Lost
        if version <= known:
            return None
        # Between the last message and the cursor, nothing was to be sent.
        if not known <= message.get("after", version - 1) <= max(known, _version_in(before)):
            raise OutOfStep
        if message["kind"] == "change":
            return self._update(message, cursor, _applied(self._state, message["patch"]))
        gone = message.get("gone", [])
        state = {name: it for name, it in {**self._state, **message["values"]}.items() if name not in gone}
        return self._update(message, cursor, state, gone=tuple(gone))

    def _take_snapshot(self, message: dict[str, Any], cursor: str) -> DocumentUpdate | None:
        known, old = self._version, self._state
        state: Json = ABSENT if message.get("absent") else message.get("values", message.get("state"))
        is_new = known is None or message["version"] > known
        if not is_new and (message["why"] != "log" or _same(old, state)):
            return None
        if known is None:
            return self._update(message, cursor, state)
        if "values" not in message:
            return self._update(message, cursor, state, patch=_difference(old, state))
        changed = {name: it for name, it in state.items() if name not in old or not _same(old[name], it)}
        gone = tuple(name for name in old if name not in state)
        return self._update(message, cursor, state, values=changed, gone=gone)

    def _update(self, message: dict[str, Any], cursor: str, state: Json, **members: Any) -> DocumentUpdate:
        self.begin(message["version"], state)
        shown = {"state": None, "is_absent": True} if state is ABSENT else {"state": state}
        return read_answer(DocumentUpdate, message, cursor=cursor, **shown, **members)


def _version_in(cursor: str) -> int:
    """Return the version of a document's cursor; 0 of an empty one. Raises `Refused`."""
    digits = cursor.rpartition("-")[2]
    if not (digits.isascii() and digits.isdecimal()) and cursor:
        rule = "is a version, or the cursor of an update of this document"
        raise Refused("bad_cursor", rule, field="after", shape=repr(cursor[:64]))
    return int(digits or 0)


def _same(old: Json, new: Json) -> bool:
    return old is new or json_text.identical(old, new)


def _difference(old: Json, new: Json) -> Patch:
    """Return the patch between two states, the second of which came as a snapshot."""
    from refold.core.diff import diff  # noqa: PLC0415 - few watches get a second snapshot.

    if new is ABSENT:
        return [] if old is ABSENT else [{"op": "remove", "path": ""}]
    return [{"op": "add", "path": "", "value": new}] if old is ABSENT else [*diff(old, new)]


def _applied(state: Json, patch: Patch) -> Json:
    """Return what a change's patch makes of a state, which stays as it is: what changes in it is copied."""
    from refold.core.replay import apply_accepted  # noqa: PLC0415 - a program that follows nothing does without it.

    made: set[int] = set()
    try:
        for operation in patch:
            for step in _steps(state, operation):
                if step["op"] == "remove" and not step["path"]:
                    state = ABSENT
                    continue
                above = parse(step["path"])[:-1]
                state = apply_accepted(_unshared({} if state is ABSENT else state, above, made), [step])
    except (Refused, LookupError, TypeError, ValueError) as error:
        raise Lost from error
    return state


def _steps(state: Json, operation: Json) -> list[Json]:
    """Return an operation, a `move` as two: what it removes has an effect on the path that it adds to."""
    if operation["op"] != "move" or operation["from"] == operation["path"]:
        return [operation]
    value = resolve(state, parse(operation["from"]))
    return [
        {"op": "remove", "path": operation["from"]},
        {"op": "add", "path": operation["path"], "value": value},
    ]


def _unshared(state: Json, tokens: tuple[str, ...], made: set[int]) -> Json:
    """Return a state whose containers along a path are copies; `made` has the ids of those that are already."""
    root = node = _copy(state, made)
    for token in tokens:
        place = token if type(node) is dict else index(token, len(node))
        node[place] = node = _copy(node[place], made)
    return root


def _copy(node: Json, made: set[int]) -> Json:
    if id(node) in made or type(node) not in {dict, list}:
        return node
    copied = node.copy()
    made.add(id(copied))
    return copied
