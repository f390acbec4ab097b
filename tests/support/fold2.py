"""A test-only fold 2: fold 1 plus `inc`, longer patches, and a window for events with a stale base.

It tests fold numbers: a log that starts under one continues under the next, in every shard and every replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.errors import Refused
from refold.core.fold import RULES, genesis, v1
from refold.core.fold.rules import Decoded, Folded, Rules, Window
from refold.core.patch import RFC_6902, Operation, OperationShape
from refold.core.pointer import parse, resolve
from refold.core.stream import Record

NUMBER = 2


def _inc(edit: Any, operation: Operation) -> None:
    old = resolve(edit.root, operation.tokens)
    if type(old) is not int or type(operation.value) is not int:
        raise Refused("not_a_number", "inc adds an integer to an integer")
    new = old + operation.value
    RFC_6902["replace"].apply(edit, operation._replace(value=new))


def needs(decoded: Decoded, _: Document) -> int | None:
    """Request the changes since an event's base."""
    return decoded.event.base if decoded.event is not None else None


def decide(
    document: Document, record: Record, decoded: Decoded, recorded_at: int, rules: Rules, window: Window
) -> Folded:
    """Fold as fold 1 does; a stale base is a conflict only where a change since then touched the first path."""
    event = decoded.event
    if event is not None and event.base is not None and event.base < document.version:
        versions = [entry.version for entry in window]
        assert versions == list(range(event.base + 1, document.version + 1)), (record, versions)
        path = event.fields["patch"][0]["path"].encode()
        if not any(path in (entry.effect or entry.body) for entry in window):
            decoded = decoded._replace(event=event._replace(base=None))
    folded = v1.decide(document, record, decoded, recorded_at, rules, window)
    is_changed = folded.outcome.status.is_effective and event is not None and "patch" in event.fields
    if not is_changed or all(operation["op"] != "inc" for operation in event.fields["patch"]):
        return folded
    effect = [_effect_of(document, operation) for operation in event.fields["patch"]]
    return folded._replace(outcome=folded.outcome._replace(effect=effect))


def _effect_of(document: Document, operation: dict[str, Any]) -> dict[str, Any]:
    if operation["op"] != "inc":
        return operation
    value = resolve(document.state, parse(operation["path"]))
    return {"op": "replace", "path": operation["path"], "value": value}


FOLD_2 = Rules(
    number=NUMBER,
    limits=replace(v1.LIMITS, operations=20_000),
    operations={**RFC_6902, "inc": OperationShape(_inc, has_value=True)},
    decode=v1.decode,
    needs=needs,
    decide=decide,
)


@contextmanager
def known_fold_2() -> Iterator[None]:
    """Make number 2 known to this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(RULES, NUMBER, FOLD_2)
        yield


def inc(path: str = "/n", by: int = 1, **fields: Any) -> dict[str, Any]:
    """Return an event that fold 1 rejects, and fold 2 applies."""
    return {"patch": [{"op": "inc", "path": path, "value": by}], **fields}


MOVE_ON: dict[str, Any] = {"put": {"fold": NUMBER}}
GENESIS_2 = json_text.dumps(genesis("log-2", FOLD_2))
