"""Content codings of HTTP bodies, gzip and zstd: decode those of requests, bounded, and encode large responses.

Used by `refold.gateway.requests` for each piece of a body, and by `refold.gateway.app` for each response.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Final

from starlette.requests import Request
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from refold.gateway.responses import Problem, Response

ENCODED_BYTES_MIN: Final = 1_400
"""Bytes of a response from which on it is encoded: a smaller one fits into one packet."""

THREAD_BYTES_MIN: Final = 128 * 1024
"""A larger response is encoded in a thread: gzip takes 0.7 ms for so much."""

PIECE_BYTES_MAX: Final = 256 * 1024
"""Bytes that are decoded before they are handed on."""

ZSTD_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
"""The window that a decoder of zstd must have (RFC 9659)."""

CODINGS: Final = ("zstd", "gzip")
"""In the order of preference."""

_ZSTD_SLICE_BYTES: Final = 128
"""A block of zstd of 4 bytes may become 128 KiB: so many bytes become 4 MiB at most."""

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_ENCODED_TYPES: Final = frozenset({b"application/json", b"application/problem+json"})


class BodyDecoder:
    """Decode the pieces of one request's body, of which never more than `PIECE_BYTES_MAX`, or 4 MiB, is in memory."""

    def __init__(self, coding: str) -> None:
        self._gzip = zlib.decompressobj(_GZIP_WINDOW) if coding == "gzip" else None
        self._zstd = ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
        self._coding = coding
        self._pending: Iterator[bytes] = iter(())
        self.has_all = False
        """Whether the last piece was fed."""

    def feed(self, piece: bytes, *, is_last: bool) -> None:
        """Take a piece, when `take` has returned everything of the one before it."""
        self.has_all = is_last
        self._pending = self._decode(piece, is_last=is_last)

    def take(self) -> bytes | None:
        """Return the next decoded bytes; None where the next piece is needed. Raises `Problem`."""
        try:
            return next(self._pending, None)
        except (zlib.error, ZstdError) as error:
            raise self._damaged(str(error)) from error

    def _decode(self, piece: bytes, *, is_last: bool) -> Iterator[bytes]:
        yield from self._inflate(self._gzip, piece) if self._gzip is not None else self._unzstd(piece)
        ended = self._zstd.eof if self._gzip is None else self._gzip.eof
        if is_last and not ended:
            raise self._damaged("it is cut off")

    def _inflate(self, gzip: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
        while piece:
            if gzip.eof:
                raise self._damaged("bytes follow its end")
            if plain := gzip.decompress(piece, PIECE_BYTES_MAX):
                yield plain
            piece = gzip.unconsumed_tail or gzip.unused_data

    def _unzstd(self, piece: bytes) -> Iterator[bytes]:
        for start in range(0, len(piece), _ZSTD_SLICE_BYTES):
            if self._zstd.eof:
                raise self._damaged("bytes follow its end")
            if plain := self._zstd.decompress(piece[start : start + _ZSTD_SLICE_BYTES]):
                yield plain
        if self._zstd.unused_data:
            raise self._damaged("bytes follow its end")

    def _damaged(self, why: str) -> Problem:
        detail = f"the body is not {self._coding}, as Content-Encoding says: {why}"
        return Problem(400, "bad_encoding", detail, headers={"Connection": "close"}, field="body")


async def encode(request: Request, response: Response) -> None:
    """Encode a response in place, if it is large JSON and the client accepts a coding.

    Its entity tag stays that of the version: no part of a body is ever asked for by it.
    """
    if response.status == 304:
        response.raw_headers.append((b"vary", b"Accept-Encoding"))
        return
    if len(response.body) < ENCODED_BYTES_MIN or not _is_encodable(response):
        return
    response.raw_headers.append((b"vary", b"Accept-Encoding"))
    accepted = b",".join(value for name, value in request.scope["headers"] if name == b"accept-encoding")
    coding = chosen_coding(accepted.decode("latin-1"))
    if coding is None:
        return
    if len(response.body) < THREAD_BYTES_MIN:
        response.body = _encoded(coding, response.body)
    else:
        response.body = await asyncio.to_thread(_encoded, coding, response.body)
    headers = [header for header in response.raw_headers if header[0] != b"content-length"]
    length = b"%d" % len(response.body)
    response.raw_headers = [
        *headers,
        (b"content-encoding", coding.encode()),
        (b"content-length", length),
    ]


def chosen_coding(accepted: str) -> str | None:
    """Return the coding that `Accept-Encoding` prefers; None for none. What is malformed is ignored."""
    weights: dict[str, float] = {}
    for item in accepted.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weights[name] = next((_weight(each) for each in parameters if each.startswith("q=")), 1.0)
    found = [(weights.get(name, weights.get("*", 0.0)), name) for name in CODINGS]
    weight, coding = max(found, key=lambda each: each[0])
    return coding if weight > 0 else None


def _weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0


def _is_encodable(response: Response) -> bool:
    names = dict(response.raw_headers)
    return names.get(b"content-type") in _ENCODED_TYPES and b"content-encoding" not in names


def _encoded(coding: str, body: bytes) -> bytes:
    if coding == "zstd":
        return ZstdCompressor(level=1).compress(body)
    return zlib.compress(body, 1, wbits=_GZIP_WINDOW)
