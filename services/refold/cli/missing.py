"""Explain what was not found: which namespaces, documents and versions there are.

Used by the command modules. A read over HTTP answers with an empty list; a person may have mistyped a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from refold.core.errors import DocumentAbsent, Refused, VersionUnknown

if TYPE_CHECKING:
    from refold.cli.target import Target
    from refold.client import Change, Refold


async def check_namespace(refold: Refold, namespace: str) -> None:
    """Raise `Refused` where there is no such namespace."""
    from refold.client.values import find_namespace

    find_namespace(await refold.namespaces(), namespace)


async def check_document(refold: Refold, target: Target) -> None:
    """Raise `Refused` where the document has neither versions nor rejections."""
    async for _ in refold.history(*target, limit=1):
        return
    async for _ in refold.rejections(*target, limit=1):
        return
    await check_namespace(refold, target.namespace)
    raise Refused("document_unknown", f"namespace {target.namespace} has no document {target.document}")


async def explain(
    refold: Refold,
    target: Target,
    error: DocumentAbsent | VersionUnknown,
    *,
    version: int | None = None,
    at: str | None = None,
    clock: str = "recorded",
) -> NoReturn:
    """Raise the error again, with the document's head and what would find it."""
    await check_document(refold, target)
    name = "/".join(target)
    first, head = await _change(refold, target), await _change(refold, target, is_reversed=True)
    if first is None or head is None:
        raise DocumentAbsent(f"{name} has no version: all its events were rejected") from error
    if isinstance(error, VersionUnknown):
        raise VersionUnknown(f"{name} has no version {version}; {_said(head)}") from error
    if at is None:
        when = "was deleted" if version is None else f"is absent at version {version}"
        raise DocumentAbsent(f"{name} {when}; {_said(head)}") from error
    raise DocumentAbsent(f"{name} is absent at {at}; {_before(first, at, clock) or _said(head)}") from error


def _before(first: Change, at: str, clock: str) -> str:
    """Say when the first version was made, where that was after the time asked for."""
    from refold.core.timestamp import parse_time

    asked, recorded, occurred = parse_time(at), parse_time(first.recorded_at), parse_time(first.occurred_at)
    if clock == "occurred":
        return f"its first version occurred at {first.occurred_at}" if asked < occurred else ""
    if asked >= recorded:
        return ""
    hint = f"; it occurred at {first.occurred_at}: try --clock occurred" if occurred <= asked else ""
    return f"its first version was recorded at {first.recorded_at}{hint}"


def _said(head: Change) -> str:
    return f"its head is version {head.version}, recorded at {head.recorded_at}"


async def _change(refold: Refold, target: Target, *, is_reversed: bool = False) -> Change | None:
    changes = refold.history(*target, limit=1, is_reversed=is_reversed)
    return await anext(changes, None)
