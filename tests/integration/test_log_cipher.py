"""The log is encrypted by nats-server, and no wrong key harms it: real servers on real folders."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from refold.core.errors import LogKeyWrong, LogMissing
from refold.embedded.folder import FolderMarker, open_folder
from refold.embedded.log_cipher import FINGERPRINTS, LogCipher, remember_cipher
from refold.embedded.nats import NatsServer, start_nats, stored_blocks
from refold.log import Appended, Publication
from refold.log.jetstream import JetStreamLog
from refold.wiring.servers import make_log, open_log

EVENTS = 20
CANARY = b"canary-5f2c81"
FIRST, SECOND, WRONG = (LogCipher(key=letter * 32) for letter in "abc")
ROTATED = LogCipher(key=SECOND.key, before=FIRST.key)


@asynccontextmanager
async def _server(data: Path, cipher: LogCipher | None) -> AsyncIterator[NatsServer]:
    with await open_folder(data) as folder:
        server = await start_nats(folder, sync="os", cipher=cipher)
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def _log(data: Path, cipher: LogCipher | None) -> AsyncIterator[JetStreamLog]:
    """Start as `refold up` does: create the log, or check the one that is there."""
    async with _server(data, cipher) as server:

        async def traces() -> list[str]:
            return stored_blocks(server.home)

        await make_log(server.url("administrator"), marker=FolderMarker(data), traces=traces)
        remember_cipher(server.home, cipher)
        log = await open_log(server.url("projector"), "test")
        try:
            yield log
        finally:
            await log.close()


async def _write(data: Path, cipher: LogCipher | None) -> None:
    async with _server(data, cipher) as server:
        await make_log(server.url("administrator"), marker=FolderMarker(data))
        remember_cipher(server.home, cipher)
        log = await open_log(server.url("administrator"), "test")
        for number in range(EVENTS):
            body = b'{"id":"%d","put":{"secret":"%s"}}' % (number, CANARY)
            assert isinstance(await log.append(Publication(namespace="n", document="d", body=body)), Appended)
        await log.close()


async def _last_sequence(data: Path, cipher: LogCipher | None) -> int:
    async with _log(data, cipher) as log:
        return (await log.info()).last_sequence


def _stored(data: Path) -> dict[str, str]:
    """Digests of the log's files, and of what is kept about its key."""
    files = [*(data / "nats/jetstream/$G").rglob("*"), data / "nats" / FINGERPRINTS]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix in {".blk", ".key", ".inf", ".json"} and "obs" not in path.parts and path.exists()
    }


def _contains(data: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in data.rglob("*") if path.is_file())


def _has_canary(data: Path) -> bool:
    return _contains(data, CANARY)


async def test_a_wrong_key_or_none_leaves_the_encrypted_log_intact(tmp_path: Path) -> None:
    await _write(tmp_path, FIRST)
    assert not _has_canary(tmp_path)
    before = _stored(tmp_path)
    assert before

    for cipher, expected in ((WRONG, "is not the key"), (None, "set REFOLD_LOG_KEY")):
        with pytest.raises(LogKeyWrong, match=expected):
            await _last_sequence(tmp_path, cipher)
        assert _stored(tmp_path) == before

    # Without the fingerprint, the server starts under a wrong key, and does not find the stream.
    (tmp_path / "nats" / FINGERPRINTS).unlink()
    before = _stored(tmp_path)
    with pytest.raises(LogKeyWrong, match="set REFOLD_LOG_KEY"):
        await _last_sequence(tmp_path, None)
    for _ in range(2):
        with pytest.raises(LogMissing, match="the marker names log"):
            await _last_sequence(tmp_path, WRONG)
        assert _stored(tmp_path) == before
    assert not (tmp_path / "nats" / FINGERPRINTS).exists()

    assert await _last_sequence(tmp_path, FIRST) == EVENTS + 1
    assert (tmp_path / "nats" / FINGERPRINTS).exists()
    assert not _has_canary(tmp_path)


async def test_the_key_of_the_log_is_replaced_at_a_start(tmp_path: Path) -> None:
    await _write(tmp_path, FIRST)
    assert await _last_sequence(tmp_path, ROTATED) == EVENTS + 1
    assert await _last_sequence(tmp_path, SECOND) == EVENTS + 1
    with pytest.raises(LogKeyWrong):
        await _last_sequence(tmp_path, FIRST)
    assert await _last_sequence(tmp_path, SECOND) == EVENTS + 1
    assert not _has_canary(tmp_path)


async def test_a_log_is_not_encrypted_later_and_says_when_its_key_files_are_missing(tmp_path: Path) -> None:
    await _write(tmp_path / "plain", None)
    assert _has_canary(tmp_path / "plain")
    with pytest.raises(LogKeyWrong, match="from its first event or never"):
        await _last_sequence(tmp_path / "plain", FIRST)
    assert await _last_sequence(tmp_path / "plain", None) == EVENTS + 1

    await _write(tmp_path / "lost", FIRST)
    for path in list((tmp_path / "lost").rglob("*.key")):
        path.unlink()
    with pytest.raises(LogKeyWrong, match="missing beside it"):
        await _last_sequence(tmp_path / "lost", FIRST)


async def test_the_key_is_in_no_file_of_the_folder(tmp_path: Path) -> None:
    await _write(tmp_path, ROTATED)
    secrets = [FIRST.key, SECOND.key, *ROTATED.environment.values()]
    assert not any(_contains(tmp_path, secret.encode()) for secret in secrets)
