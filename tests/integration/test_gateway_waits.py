"""Reads that wait for a version are woken by their own document's changes, not by every commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from refold.store import Head
from support.gateway import Twin, twin

READERS = 20


def counted(gateway: Twin, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the documents whose heads are read from now on."""
    read: list[str] = []
    head = gateway.store.head

    async def counting(namespace: str, document: str, **how: Any) -> Head | None:
        read.append(document)
        return await head(namespace, document, **how)

    monkeypatch.setattr(gateway.store, "head", counting)
    return read


async def waiting_for(gateway: Twin, version: int) -> list[asyncio.Task[object]]:
    """Start reads that wait for a version, and return once all do."""
    path = f"/v1/n/awaited?min_version={version}&timeout=60"
    tasks = [asyncio.create_task(gateway.request("GET", path)) for _ in range(READERS)]
    async with asyncio.timeout(60):
        while True:
            watched = gateway.context.consistency._watched.get("change.n.awaited")
            if watched is not None and len(watched.waiters) == READERS:
                break
            await asyncio.sleep(0)
    return tasks


async def test_a_commit_wakes_only_the_reads_that_wait_for_its_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.consistency.VERSION_LOOK_SECONDS", 3_600.0)
    async with twin() as gateway:
        await gateway.put("/v1/n/awaited", 1)
        reading = await waiting_for(gateway, 3)
        read = counted(gateway, monkeypatch)
        for number in range(30):
            await gateway.put("/v1/n/other", number)
        await gateway.put("/v1/n/awaited", 2)
        assert "awaited" not in read
        assert not any(task.done() for task in reading)
        await gateway.put("/v1/n/awaited", 3)
        for task in reading:
            response = await task
            assert (response.json(), response.headers["etag"]) == (3, '"3"')
        # Each reads once to end its wait and once to answer.
        assert read.count("awaited") <= 2 * READERS
        assert not [subject for subject, _ in gateway.notices._listeners if subject[0] == "change"]


async def test_a_read_whose_change_notice_is_lost_still_finds_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.consistency.VERSION_LOOK_SECONDS", 0.01)
    async with twin() as gateway:
        gateway.notices.lost = ("change.", "refold.progress")
        reading = await waiting_for(gateway, 1)
        await gateway.put("/v1/n/awaited", 1)
        for task in reading:
            assert (await task).json() == 1
