"""Work through the Python client: strict writers, bulk requests, loads of a version. Tasks for `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

from bench.signals import Signals
from refold.bench.workload import NAMESPACE
from refold.client import Outcome, Refold
from refold.core.errors import RefoldError

MEMBERS: Final = 16
LOADED_DOCUMENTS: Final = 100
LOADED_VERSIONS: Final = 100
STRIDE: Final = 37
"""Documents are read in steps of this many: not in the order in which they were written."""


async def write_strictly(
    signals: Signals, *, url: str, writers: int, seconds: float, prefix: str
) -> dict[str, Any]:
    """Patch a document for each writer, at the version that it knows, and wait for the fold's outcome."""
    taken: list[float] = []

    async def write(refold: Refold, document: str, until: float) -> None:
        for version in count():
            begun = time.perf_counter()
            if begun >= until:
                return
            _check(await refold.patch(NAMESPACE, document, _change(document, version), if_version=version))
            taken.append((time.perf_counter() - begun) * 1_000)

    async with Refold(url) as refold:
        await signals.until_go()
        begun = time.perf_counter()
        names = [f"{prefix}{number}" for number in range(writers)]
        await asyncio.gather(*(write(refold, name, begun + seconds) for name in names))
        return {"milliseconds": taken, "seconds": time.perf_counter() - begun}


async def append_in_bulk(
    signals: Signals, *, url: str, size: int, seconds: float, prefix: str
) -> dict[str, Any]:
    """Post bulks one after another, each all of a new document's events, and wait for every outcome."""
    events = 0
    async with Refold(url) as refold:
        await signals.until_go()
        begun = time.perf_counter()
        for number in count():
            if time.perf_counter() - begun >= seconds:
                break
            events += await _append(refold, f"{prefix}{number}", size)
        return {"events": events, "seconds": time.perf_counter() - begun}


async def load_middle_versions(signals: Signals, *, url: str, seconds: float, prefix: str) -> dict[str, Any]:
    """Load documents as of their middle version, one after another; the first of each is checked."""
    middle, names = LOADED_VERSIONS // 2, [f"{prefix}{number}" for number in range(LOADED_DOCUMENTS)]
    async with Refold(url) as refold:
        for name in names:
            await _append(refold, name, LOADED_VERSIONS)
            found = await refold.get(NAMESPACE, name, version=middle)
            if found.version != middle or found.state != _state(name, middle):
                raise RefoldError("not the version that was asked for", document=name, version=found.version)
        await signals.until_go()

        async def load(number: int) -> None:
            await refold.get(NAMESPACE, names[number * STRIDE % len(names)], version=middle)

        return await _repeat(load, seconds)


async def _repeat(work: Callable[[int], Awaitable[None]], seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    begun = time.perf_counter()
    for number in count():
        started_at = time.perf_counter()
        if started_at - begun >= seconds:
            break
        await work(number)
        taken.append((time.perf_counter() - started_at) * 1_000)
    return {"milliseconds": taken, "seconds": time.perf_counter() - begun}


async def _append(refold: Refold, document: str, size: int) -> int:
    lines = [{"doc": document, "patch": _change(document, at), "base": at} for at in range(size)]
    for outcome in await refold.append(NAMESPACE, lines):
        _check(outcome)
    return size


def _change(document: str, version: int) -> list[dict[str, Any]]:
    """Return the patch of a document at a version: one member, about 180 bytes."""
    text = f"{hash_of(document, version):016x}" * 7
    value = {"number": version + 1, "text": text}
    return [{"op": "add", "path": f"/member-{version % MEMBERS:02}", "value": value}]


def hash_of(document: str, version: int) -> int:
    """Return 64 bits that depend on both."""
    seed = sum(byte << (number % 48) for number, byte in enumerate(document.encode()))
    return (seed * 31 + version + 1) * 0x9E3779B97F4A7C15 % 2**64


def _state(document: str, version: int) -> dict[str, Any]:
    changes = [_change(document, at)[0] for at in range(max(0, version - MEMBERS), version)]
    return {change["path"][1:]: change["value"] for change in changes}


def _check(outcome: Outcome) -> None:
    if outcome.status != "applied":
        raise RefoldError("an event was not applied", status=outcome.status, reason=outcome.reason)
