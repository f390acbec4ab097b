"""Content codings over HTTP: of requests, bounded before they are decoded, and of responses that are large."""

from __future__ import annotations

import gzip
import json

import pytest
import zstandard
from cramjam import snappy

from refold.core.fold import EVENT_BYTES_MAX
from support.gateway import NDJSON, twin

CODERS = {"gzip": gzip.compress, "zstd": zstandard.compress}
LARGE = {"text": [f"line {number}" for number in range(5_000)]}
JSON = "application/json"


def typed(coding, media=JSON):
    return {"content-type": media, "content-encoding": coding}


@pytest.mark.parametrize("coding", CODERS)
async def test_an_encoded_body_is_the_event_that_it_encodes(coding):
    encode = CODERS[coding]
    async with twin() as gateway:
        body = encode(json.dumps(LARGE).encode())
        put = await gateway.request("PUT", "/v1/n/d", content=body, headers=typed(coding))
        assert put.status_code == 201
        lines = b"".join(b'{"doc":"b%d","put":%d}\n' % (number, number) for number in range(200))
        bulk = await gateway.request(
            "POST", "/v1/n/events", content=encode(lines), headers=typed(coding, NDJSON)
        )
        assert bulk.status_code == 200
        assert [json.loads(line)["status"] for line in bulk.text.splitlines()][:200] == ["applied"] * 200
        assert (await gateway.request("GET", "/v1/n/d")).json() == LARGE


@pytest.mark.parametrize("coding", CODERS)
async def test_what_is_too_large_or_damaged_is_refused(coding):
    encode = CODERS[coding]
    bomb = encode(bytes(20 * EVENT_BYTES_MAX))
    assert len(bomb) < EVENT_BYTES_MAX / 20
    whole = encode(b'{"a":1}')
    async with twin() as gateway:
        for body, status, code in (
            (bomb, 413, "state_too_large"),
            (whole[:-3], 400, "bad_encoding"),
            (whole + b"more", 400, "bad_encoding"),
            (b'{"a":1}', 400, "bad_encoding"),
            (b"", 400, "bad_encoding"),
        ):
            answer = await gateway.request("PUT", "/v1/n/d", content=body, headers=typed(coding))
            assert (answer.status_code, answer.json()["code"]) == (status, code), body[:20]
        assert (await gateway.request("GET", "/v1/n/d")).status_code == 404


async def test_another_coding_is_refused_by_name():
    async with twin() as gateway:
        for coding in ("br", "gzip, gzip", "snappy"):
            body = bytes(snappy.compress(b"1"))
            answer = await gateway.request("PUT", "/v1/n/d", content=body, headers=typed(coding))
            assert (answer.status_code, answer.json()["field"]) == (415, "content-encoding")


ACCEPTED = {
    "gzip": "gzip",
    "zstd": "zstd",
    "gzip, deflate, br, zstd": "zstd",
    "gzip;q=1.0, zstd;q=0.5": "gzip",
    "zstd;q=0, gzip": "gzip",
    "*": "zstd",
    "br": None,
    "gzip;q=0, zstd;q=x": None,
    "identity": None,
    ";,=": None,
}


async def test_a_large_response_is_encoded_as_the_client_accepts():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", LARGE)
        await gateway.put("/v1/n/small", 1)
        for accepted, coding in ACCEPTED.items():
            answer = await gateway.request("GET", "/v1/n/d", headers={"accept-encoding": accepted})
            assert answer.headers.get("content-encoding") == coding, accepted
            assert answer.headers["vary"] == "Accept-Encoding"
            assert answer.json() == LARGE
            assert answer.headers["etag"] == '"1"'
            is_smaller = int(answer.headers["content-length"]) < len(answer.content) / 3
            assert is_smaller == (coding is not None)
            small = await gateway.request("GET", "/v1/n/small", headers={"accept-encoding": accepted})
            assert "content-encoding" not in small.headers


async def test_the_tag_of_an_encoded_response_is_that_of_its_version():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", LARGE)
        tag = (await gateway.request("GET", "/v1/n/d", headers={"accept-encoding": "gzip"})).headers["etag"]
        known = await gateway.request("GET", "/v1/n/d", headers={"if-none-match": tag})
        assert (known.status_code, known.headers["etag"], known.headers["vary"]) == (
            304,
            tag,
            "Accept-Encoding",
        )
        assert (await gateway.put("/v1/n/d", 2, **{"if-match": tag})).status_code == 200
        assert (await gateway.put("/v1/n/d", 3, **{"if-match": tag})).status_code == 412
