"""What OpenAPI cannot express of a valid request. schemathesis imports this by name (schemathesis.toml).

Only cases that should be valid are changed: parameters that contradict each other, times that do not exist
yet, numbers out of range, texts that only Postgres or an answer gives a meaning to.
"""

from __future__ import annotations

import json
import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote, urlencode

import orjson
import schemathesis

from refold.core.errors import Refused
from refold.core.json_text import INTEGER_MAX, INTEGER_MIN
from refold.core.stream import is_document_id
from refold.core.timestamp import parse_rfc3339, parse_time

ADDRESS_BYTES_MAX = 60_000
INTEGERS = {"version", "v", "reverts", "resolves", "pos", "len", "max"}
POINTS = ("version", "at", "sequence", "where", "absent")
CONDITIONS = ("If-Match", "If-None-Match")
REVERTS = {"refold-base", "refold-session", "refold-reverts"}
BASES = ("Refold-Base", "Refold-On-Conflict")
REFERENCES = ("refold-reverts", "refold-resolves")


@schemathesis.serializer("application/x-ndjson", "text/plain")
def write_text(_: Any, value: Any) -> bytes:
    """Send a text as it is."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """Leave out what the HTTP server answers itself, by a bare 414: addresses over 64 KiB."""
    return not case.query or len(urlencode(dict(case.query), errors="replace")) < ADDRESS_BYTES_MAX


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: Any) -> None:
    """Make a case that should be valid meaningful, and one of a live stream a long poll, which ends."""
    is_live = case.path.endswith(("/live", "/live/v1"))
    if is_live:
        case.headers = {**(case.headers or {}), "Accept": "application/json"}
        case.query = {"wait": 0, **(case.query or {})}
    if case.path.startswith("/agui/"):
        _end_at_once(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.method != "GET" and str(case.path_parameters.get("namespace", "")).startswith("_"):
        # Linked from the list of namespaces, which includes the system's own.
        case.path_parameters["namespace"] = "n"
    document = case.path_parameters.get("document")
    if isinstance(document, str) and not (is_document_id(document) and is_document_id(unquote(document))):
        # Its length is that of its escaped bytes, and a few more characters are not printable.
        case.path_parameters["document"] = "d"
    if isinstance(case.query, MutableMapping):
        _fix_query(case.query)
        if is_live:
            _fix_subscription(case.query)
        elif case.path.endswith("/blame") and "cursor" in case.query:
            case.query["cursor"] = "1.1"
            case.query.pop("version", None)
    if isinstance(case.headers, MutableMapping):
        _fix_headers(case.headers)
    if case.path.endswith("/revert") and isinstance(case.headers, MutableMapping):
        # The body says it.
        for name in [name for name in case.headers if name.lower() in REVERTS]:
            del case.headers[name]
        if isinstance(case.body, dict):
            # Integers are written as such: 1.0 is not 1.
            case.body = {name: int(version) for name, version in case.body.items()}
    if case.path.endswith("/events") and isinstance(case.body, str):
        case.body = orjson.dumps({"doc": "d", "put": _text(case.body)}).decode() + "\n" + case.body
    elif case.path.endswith("/transactions") and isinstance(case.body, dict):
        _fix_changes(case.body)
        if isinstance(case.headers, MutableMapping):
            # Given in both places, it must be the same.
            case.headers.pop("Idempotency-Key", None)
    elif isinstance(case.body, list | dict | int):
        case.body = _within(case.body)


def _end_at_once(case: Any) -> None:
    """Let a run that follows end after the state, whichever of query and body says for how long."""
    if isinstance(case.query, MutableMapping):
        case.query["seconds"] = 0
    properties = case.body.get("forwardedProps") if isinstance(case.body, dict) else None
    if isinstance(properties, dict) and isinstance(properties.get("refold"), dict):
        properties["refold"] = {**properties["refold"], "seconds": 0}


def _fix_changes(body: dict[str, Any]) -> None:
    """Give each change a document of its own, and a time that is one; write integers as such."""
    body["changes"] = _within(body["changes"])
    for number, change in enumerate(body["changes"]):
        change["doc"] = f"d{number}"
        for part in (change, *change.get("patch", [])):
            part |= {name: int(part[name]) for name in INTEGERS & part.keys()}
        if "occurred_at" in change and not _is_time(change["occurred_at"]):
            del change["occurred_at"]


def _fix_query(query: MutableMapping[str, Any]) -> None:
    for name in [name for name in POINTS if name in query][1:]:
        del query[name]
    if "at" in query and not _is_past(str(query["at"])):
        query["at"] = "2024-02-29T00:00:00.5+01:00"
    if "at" not in query:
        query.pop("clock", None)
    if "absent" in query:
        query["fields"] = "id"
    # The awaited version must exist: anything else is a 504, by contract.
    for name, value in (("sequence", 1), ("min_sequence", 1), ("min_version", 0)):
        if name in query:
            query[name] = value
    for name, value in (("where", '$.a > 1 || $.b == "x"'), ("cursor", "ZA")):
        if name in query:
            query[name] = value


def _fix_subscription(query: MutableMapping[str, Any]) -> None:
    """Ask for one mode with its own parameters, and do not wait."""
    lost = {"mode"} if "*" in str(query.get("path")) else set()
    if lost or query.get("mode") in {"values", "changes"}:
        lost |= {"ops", "merge"}
    lost |= {"path", "depth"} if query.get("mode") == "changes" else {"type"}
    if "cursor" in query:
        query["cursor"] = "0123abcd-1"
        lost.add("after")
    for name in lost & query.keys():
        del query[name]
    query |= {"wait": 0}
    if "sub" in query:
        query["sub"] = [json.dumps({"namespace": "n", "document": str(n)}) for n in range(len(query["sub"]))]


def _fix_headers(headers: MutableMapping[str, Any]) -> None:
    named = {name.lower(): name for name in headers}
    conditions = [named[name.lower()] for name in CONDITIONS if name.lower() in named]
    lost = conditions[1:]
    if conditions:
        lost += [named[name.lower()] for name in BASES if name.lower() in named]
    # The document has no version and no conflict that these could name.
    lost += [named[name] for name in REFERENCES if name in named]
    for name in conditions:
        # Its coverage phase writes a bare 0 for any pattern.
        if str(headers[name]) == "0":
            headers[name] = '"0"'
    if "refold-min-sequence" in named:
        # The log must have it: anything else is a 422, by contract.
        headers[named["refold-min-sequence"]] = "1"
    key, occurred = named.get("idempotency-key", ""), named.get("refold-occurred-at", "")
    if key and not str(headers[key]).strip():
        lost.append(key)
    if (key and "refold-id" in named) or (
        "refold-id" in named and not str(headers[named["refold-id"]]).strip()
    ):
        lost.append(named["refold-id"])
    if occurred and not _is_time(str(headers[occurred])):
        lost.append(occurred)
    if "refold-meta" in named:
        meta = json.loads(headers[named["refold-meta"]])
        headers[named["refold-meta"]] = json.dumps(_within(meta))
    for name in lost:
        del headers[name]


def _is_past(text: str) -> bool:
    try:
        return parse_time(text) < time.time_ns()
    except Refused:
        return False


def _is_time(text: str) -> bool:
    try:
        parse_rfc3339(text)
    except Refused:
        return False
    return True


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _within(value: Any) -> Any:
    """Clamp integers to the fold's range, and remove moves into themselves."""
    if isinstance(value, list):
        return [_within(item) for item in value if not _moves_into_itself(item)]
    if isinstance(value, dict):
        return {name: _within(item) for name, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return max(INTEGER_MIN, min(value, INTEGER_MAX))
    return value


def _moves_into_itself(operation: Any) -> bool:
    is_move = isinstance(operation, dict) and operation.get("op") == "move"
    return is_move and str(operation.get("path")).startswith(f"{operation.get('from')}/")
