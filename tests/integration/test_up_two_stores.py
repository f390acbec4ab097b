"""`refold up` with two stores, Redis before files: each has a projector, and reads go to the first that can answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.metrics import check_metrics
from support.redis_servers import RedisServer, redis_binary, valkey_binary
from support.system import free_port
from support.up import Up, run_refold, until

DOCUMENT = "/v1/acme/a"


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """A server that a test kills and starts again."""
    binary, port = redis_binary() or valkey_binary(), free_port()
    if binary is None:
        pytest.skip("capability: the server is not installed")
    server = RedisServer(binary, tmp_path_factory.mktemp("r"), "--port", str(port))
    server.url = f"redis://127.0.0.1:{port}"
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def up(tmp_path_factory, redis):
    stores = ("--store", redis.url, "--store", "files")
    running = Up.start(tmp_path_factory.mktemp("two") / "data", *stores, "--durability", "os")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def client(up):
    with httpx.Client(base_url=up.url, trust_env=False) as client:
        yield client


def stores_of(client: httpx.Client) -> dict[str, Any]:
    return {store["store"]: store for store in client.get("/status").json()["stores"]}


def put(client: httpx.Client, state: Any) -> None:
    response = client.put(DOCUMENT, json=state)
    assert response.status_code in {200, 201}, response.text


def answered_by(client: httpx.Client, state: Any, store: str) -> bool:
    """Whether a store has answered, and not the gateway's memory; every answer must have the state."""
    response = client.get(DOCUMENT)
    assert (response.status_code, response.json()) == (200, state)
    return response.headers.get("Refold-Store") == store


def test_each_store_has_a_projector_and_the_first_is_preferred(up, client):
    processes = [line.split()[0] for line in up.said().splitlines() if "process" in line]
    assert processes == ["projector", "projector-files", "gateway"]
    services = up.endpoints()["services"]
    assert list(services) == processes
    check_metrics(services)
    put(client, {"n": 1})
    until(lambda: answered_by(client, {"n": 1}, "redis"))
    assert {name: store["is_projected"] for name, store in stores_of(client).items()} == {
        "redis": True,
        "files": True,
    }
    put(client, {"n": 2})
    until(lambda: answered_by(client, {"n": 2}, "redis"))


def test_history_of_every_version_is_read_from_the_store_that_keeps_it(client):
    response = client.get(f"{DOCUMENT}/history")
    assert [item["version"] for item in response.json()["items"]] == [1, 2]
    assert response.headers["Refold-Store"] == "files"
    assert client.get("/v1/acme", params={"sequence": 2}).headers["Refold-Store"] == "files"


def test_reads_go_on_when_it_is_killed_and_it_is_rebuilt_after_a_wipe(up, client, redis):
    redis.kill()
    put(client, {"n": 3})
    until(lambda: answered_by(client, {"n": 3}, "files") and stores_of(client)["redis"]["problem"])
    killed = stores_of(client)["redis"]
    assert killed["breaker"] != "closed"
    assert killed["is_connected"]
    assert "cannot be reached" in killed["problem"]
    silent = run_refold("store", "compare", "redis", "files", "--data", str(up.data))
    assert (silent.returncode, f"nothing listens for redis at {redis.url}" in silent.stderr) == (3, True)
    assert "in files, up to" in run_refold("verify", "--data", str(up.data)).stdout
    for entry in Path(redis.folder).iterdir():
        if entry.is_file():
            entry.unlink()
    redis.start()
    until(lambda: answered_by(client, {"n": 3}, "redis"))
    assert stores_of(client)["redis"]["problem"] is None
    compared = json.loads(
        run_refold("store", "compare", "redis", "files", "--json", "--data", str(up.data)).stdout
    )
    assert (compared["differences"], compared["documents"] > 0) == (0, True)


@pytest.mark.slow
def test_a_store_that_is_not_there_keeps_the_system_neither_from_starting_nor_from_ending(up, client, redis):
    put(client, {"n": 3})
    redis.kill()
    assert up.stop() == 0
    again = Up.start(up.data, "--store", redis.url, "--store", "files", "--durability", "os")
    try:
        with httpx.Client(base_url=again.url, trust_env=False) as returned:
            until(lambda: answered_by(returned, {"n": 3}, "files"))
            absent = stores_of(returned)["redis"]
        assert (absent["is_connected"], absent["is_projected"]) == (False, False)
        assert "cannot be reached" in absent["problem"]
        until(lambda: '"store_not_opened"' in (up.data / "projector.log").read_text())
    finally:
        assert again.stop() == 0
