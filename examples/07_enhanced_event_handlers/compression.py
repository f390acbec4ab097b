"""Large events: how many bytes are sent, answered and stored under each coding of HTTP."""

import gzip
import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import asyncpg
import zstandard

from refold import System
from refold.embedded import read_endpoints

NAMESPACE = "telemetry"
READINGS, DOCUMENTS, ROUNDS = 700, 10, 12
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
DECODED: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "zstd": zstandard.decompress,
}


async def send_large_events(system: System) -> int:
    """Send and read a large state under each coding; then compare what was sent with what is stored."""
    state = _batch_of_readings(Random(7))  # noqa: S311 - not a secret.
    plain = _json(state)
    print(f"\n▸ Compression: one event with {READINGS} readings")
    print("            request  saved  answer  saved")
    connection = HTTPConnection(urlsplit(system.http).netloc, timeout=30)
    for coding, encode in CODINGS.items():
        body = encode(plain)
        answer = _exchange(connection, coding, body)
        assert json.loads(DECODED[coding](answer)) == state
        saved, saved_again = (1 - len(it) / len(plain) for it in (body, answer))
        print(f"  {coding:8} {len(body):8,} {saved:6.0%} {len(answer):7,} {saved_again:6.0%}")
    sent = _fill(connection)
    connection.close()
    await _show_stored(system, len(CODINGS) * len(plain) + sent)
    return len(CODINGS) + DOCUMENTS * ROUNDS


def _exchange(connection: HTTPConnection, coding: str, body: bytes) -> bytes:
    """Write a state under a coding, and return the answer to a read under the same one."""
    path = f"/v1/{NAMESPACE}/{coding}"
    for method, sent, headers in (
        ("PUT", body, {"Content-Type": "application/json", "Content-Encoding": coding}),
        ("GET", None, {"Accept-Encoding": coding}),
    ):
        if coding == "identity":
            headers.pop("Content-Encoding", None)
        connection.request(method, path, sent, headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status in {200, 201}, answer
    assert response.headers.get("Content-Encoding", "identity") == coding
    return answer


def _fill(connection: HTTPConnection) -> int:
    """Write some documents again and again; return the bytes of the events."""
    chance, count = Random(8), 0  # noqa: S311 - not a secret.
    for round_number in range(ROUNDS):
        for number in range(DOCUMENTS):
            plain = _json(_batch_of_readings(chance))
            headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
            connection.request("PUT", f"/v1/{NAMESPACE}/site-{number}", zstandard.compress(plain), headers)
            response = connection.getresponse()
            outcome = json.loads(response.read())
            assert outcome["version"] == round_number + 1, outcome
            count += len(plain)
    return count


async def _show_stored(system: System, sent: int) -> None:
    """Print what the events take on disk: in the log, and with all their versions in the database."""
    log = _log_bytes(system.data)
    database = await asyncpg.connect(read_endpoints(system.data)["postgres"])
    tables = ("documents", "journal", "pages")
    stored = sum([await database.fetchval(f"SELECT pg_table_size('refold.{name}')") for name in tables])
    await database.close()
    print(f"  {sent / 1e6:.1f} MB of such events, each a version that stays readable, take on disk")
    for name, size in (("log", log), ("PostgreSQL", stored)):
        print(f"    {name:10} {size / 1e6:5.1f} MB, {1 - size / sent:.0%} saved")


def _log_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in (data / "nats").rglob("*.blk"))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _batch_of_readings(chance: Random) -> dict[str, list[dict[str, object]]]:
    """Return readings as a gateway of sensors would send them: much is the same in each, the figures are not."""
    return {
        "readings": [
            {
                "sensor": f"boiler-{number % 20:02}",
                "quantity": ("temperature", "pressure", "flow")[number % 3],
                "value": round(chance.uniform(10, 90), 2),
                "quality": "good" if chance.random() < 0.98 else "uncertain",
                "measured_at": f"2026-11-30T10:{number // 60:02}:{number % 60:02}.{chance.randrange(1000):03}Z",
            }
            for number in range(READINGS)
        ]
    }
