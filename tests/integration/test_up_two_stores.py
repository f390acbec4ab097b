"""`refold up` with two stores, Redis before files: each has a projector, and reads go to the first that can answer."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from refold.core.errors import HistoryElsewhere
from refold.embedded import read_passwords
from refold.wiring.settings import load
from refold.wiring.usage import read_usage
from refold.wiring.usage import run as run_usage
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
    running = Up.start(tmp_path_factory.mktemp("two") / "data", *stores, "--usage", "--durability", "os")
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
    assert processes == ["projector", "projector-files", "gateway", "usage"]
    services = up.endpoints()["services"]
    assert list(services) == processes
    # The system is ready without the usage service, whose test checks its metrics.
    check_metrics({name: url for name, url in services.items() if name != "usage"})
    put(client, {"n": 1})
    until(lambda: answered_by(client, {"n": 1}, "redis"))
    assert {name: store["is_projected"] for name, store in stores_of(client).items()} == {
        "redis": True,
        "files": True,
    }
    put(client, {"n": 2})
    until(lambda: answered_by(client, {"n": 2}, "redis"))


def test_usage_is_counted_from_files_by_a_service_and_from_redis_alone_by_a_replay(
    up, client, redis, tmp_path, monkeypatch
):
    url = up.endpoints()["services"]["usage"]

    def write(*actors: str) -> int:
        for actor in actors:
            response = client.put("/v1/used/a", json={"by": actor}, headers={"Refold-Actor": actor})
        return int(response.json()["sequence"])

    def found(sequence: int) -> Any:
        try:
            answered = httpx.get(f"{url}/usage/used?by=actor", trust_env=False)
        except httpx.TransportError:
            return None
        return answered.json() if answered.json().get("sequence", 0) >= sequence else None

    first = until(partial(found, write("ada", "bob", "ada")))
    assert {row["actor"]: row["effective"] for row in first["rows"]} == {"ada": 2, "bob": 1}
    check_metrics({"usage": url})
    up.child("usage").kill()
    last = until(partial(found, write("ada")))
    assert {row["actor"]: row["effective"] for row in last["rows"]} == {"ada": 3, "bob": 1}
    logs = [*up.data.glob("*.log")]
    assert {path.stat().st_mode & 0o777 for path in (*logs, up.data / "usage.sqlite")} == {0o600}
    assert {"usage.log", "gateway.log"} <= {path.name for path in logs}
    printed = run_refold("usage", "used", "--by", "actor", "--data", str(up.data)).stdout.splitlines()
    assert [line.split()[:2] for line in printed] == [
        ["actor", "events"],
        ["ada", "3"],
        ["bob", "1"],
        ["total", "4"],
    ]
    asked = {
        ("other", "by=actor"): (404, "namespace_unknown"),
        ("used", "by=colour"): (422, "bad_usage"),
        ("used", "from=now&to=-1h"): (422, "bad_usage"),
        ("used", "until=now"): (422, "bad_parameter"),
    }
    for (namespace, query), expected in asked.items():
        response = httpx.get(f"{url}/usage/{namespace}?{query}", trust_env=False)
        assert (response.status_code, response.json()["code"]) == expected
    rebound = httpx.get(f"{url}/usage/used", headers={"Host": "elsewhere.example"}, trust_env=False)
    assert rebound.status_code == 421
    monkeypatch.chdir(tmp_path)
    # The logging of this process stays as it is.
    monkeypatch.setattr("refold.wiring.servers.configure", lambda *_, **__: None)
    password, address = read_passwords(up.data)["projector"], urlsplit(up.endpoints()["nats"]).netloc
    monkeypatch.setenv("REFOLD_NATS_URL", f"nats://projector:{password}@{address}")
    monkeypatch.setenv("REFOLD_STORES", redis.url)
    question = {"namespace": "used", "by": "actor", "begin": None, "end": None}
    replayed = asyncio.run(read_usage(load(), question, lambda *_: None))
    assert replayed == last
    with pytest.raises(HistoryElsewhere, match="needs a store of full depth"):
        asyncio.run(run_usage(load()))


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
