"""A strict write to a cached document goes directly to the log, which checks its version."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from refold.gateway.consistency import BEFORE_ALL, HEADS_MAX, BareHead, HeadCache
from refold.log import Publication
from refold.store import ANY_VERSION
from support.gateway import Twin, twin

WRITTEN = {"If-Match": '"1"'}


@pytest.fixture
async def gateway() -> AsyncIterator[Twin]:
    async with twin() as made:
        yield made


async def others_write(gateway: Twin, body: object) -> None:
    raw = json.dumps(body).encode()
    await gateway.log.append(Publication(namespace="acme", document="d", body=raw))


async def test_after_a_write_or_read_the_head_is_cached(gateway: Twin) -> None:
    first = await gateway.put("/v1/acme/d", {"n": 1})
    gateway.store.is_down = True
    second = await gateway.put("/v1/acme/d", {"n": 2}, **{"If-Match": first.headers["etag"]})
    assert (second.status_code, second.headers["etag"]) == (200, '"2"')
    gateway.store.is_down = False
    await others_write(gateway, {"put": {"n": 3}})
    assert (await gateway.request("GET", "/v1/acme/d?min_version=3")).status_code == 200
    assert (await gateway.request("GET", "/v1/acme/d")).headers["etag"] == '"3"'
    gateway.store.is_down = True
    fourth = await gateway.put("/v1/acme/d", {"n": 4}, **{"If-Match": '"3"'})
    assert (fourth.status_code, fourth.headers["etag"]) == (200, '"4"')


async def test_a_document_that_has_changed_since_it_was_cached_is_412(gateway: Twin) -> None:
    await gateway.put("/v1/acme/d", {"n": 1})
    await others_write(gateway, {"put": {"n": 2}})
    refused = await gateway.put("/v1/acme/d", {"n": 3}, **WRITTEN)
    assert (refused.status_code, refused.json()["version"]) == (412, 2)
    assert (await gateway.request("GET", "/v1/acme/d")).json() == {"n": 2}


async def test_a_rejected_event_in_between_does_not_refuse_it(gateway: Twin) -> None:
    await gateway.put("/v1/acme/d", {"n": 1})
    await others_write(gateway, {"patch": 7})
    assert (await gateway.put("/v1/acme/d", {"n": 2}, **WRITTEN)).status_code == 200
    own = await gateway.request(
        "PATCH",
        "/v1/acme/d",
        content=b'[{"op":"remove","path":"/absent"}]',
        headers={"Content-Type": "application/json-patch+json"},
    )
    assert own.status_code == 409
    assert (await gateway.put("/v1/acme/d", {"n": 3}, **{"If-Match": '"2"'})).status_code == 200


async def test_a_deleted_document_is_cached_as_absent(gateway: Twin) -> None:
    await gateway.put("/v1/acme/d", {"n": 1})
    assert (await gateway.request("DELETE", "/v1/acme/d", headers=WRITTEN)).status_code == 200
    again = await gateway.request("DELETE", "/v1/acme/d", headers={"If-Match": '"2"'})
    assert again.status_code == 404
    put = await gateway.put("/v1/acme/d", {"n": 2}, **{"If-Match": '"2"'})
    assert (put.status_code, put.json()["created"]) == (201, True)


async def test_a_write_that_does_not_wait_for_its_outcome_is_not_cached(gateway: Twin) -> None:
    await gateway.put("/v1/acme/d", {"n": 1})
    await gateway.put("/v1/acme/d", {"n": 2}, **{"Refold-Wait": "0"})
    assert gateway.context.head_cache.get(("acme", "d")) is None
    assert (await gateway.put("/v1/acme/d", {"n": 3}, **{"If-Match": '"2"'})).status_code == 200


def test_the_head_cache_is_bounded_and_keeps_the_newest() -> None:
    cache = HeadCache()
    for number in range(HEADS_MAX + 2):
        cache.put(("n", str(number)), BareHead(1, number + 1, is_absent=False))
    assert cache.get(("n", "1")) is None
    assert cache.get(("n", "2")) == BareHead(1, 3, is_absent=False)
    newest = BareHead(9, HEADS_MAX * 2, is_absent=True)
    cache.put(("n", "5"), newest)
    cache.put(("n", "5"), BareHead(8, 7, is_absent=False))
    assert cache.get(("n", "5")) == newest
    assert cache.put_row(("n", "none"), None) == BEFORE_ALL


async def test_head_reads_no_state_from_the_store(gateway: Twin) -> None:
    await others_write(gateway, {"put": {"n": 1}})
    assert (await gateway.request("GET", "/v1/acme/d?min_version=1")).headers["content-length"] == "7"
    gateway.store.known_versions.clear()
    for tag, status in (("", 200), ('"7"', 200), ('"1"', 304)):
        found = await gateway.request("HEAD", "/v1/acme/d", headers={"If-None-Match": tag} if tag else {})
        assert (found.status_code, found.headers["etag"]) == (status, '"1"')
        assert "content-length" not in found.headers
    assert gateway.store.known_versions == [ANY_VERSION] * 3
