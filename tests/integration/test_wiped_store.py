"""A store that is emptied while projector and gateway run: no answer is older than before, and it is rebuilt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest

from support.redis_servers import redis_binary, running_redis
from support.system import free_port
from support.up import Up, until

pytestmark = pytest.mark.slow

VERSIONS = 50
READS = (
    "/v1/n/d",
    f"/v1/n/d?version={VERSIONS}",
    "/v1/n?limit=1",
    "/v1/n?fields=id&absent=true",
    "/v1/n/d/history",
)


class Wiped:
    """A system, how its store is emptied, and whether the store has a projection again."""

    def __init__(self, up: Up, wipe: Callable[[], object], is_filled: Callable[[], bool]) -> None:
        self.up = up
        self.wipe = wipe
        self.is_filled = is_filled


@pytest.fixture(params=["redis", "files"])
def wiped(request, tmp_path) -> Iterator[Wiped]:
    data = tmp_path / "data"
    if request.param == "files":
        up = Up.start(data, "--store", "files", "--durability", "os")
        folder = data / "files"
        yield Wiped(up, lambda: shutil.rmtree(folder), (folder / "refold.sqlite").exists)
        assert up.stop() == 0
        return
    port = free_port()
    with running_redis(redis_binary(), "--port", str(port)) as server:
        up = Up.start(data, "--store", f"redis://127.0.0.1:{port}", "--durability", "os")
        yield Wiped(
            up,
            lambda: server.send(b"FLUSHALL"),
            lambda: server.send(b"EXISTS {refold:refold}:h:1:n:1:d") == b":1\r\n",
        )
        assert up.stop() == 0


def test_an_emptied_store_is_rebuilt_and_nothing_older_is_answered(wiped):
    with httpx.Client(base_url=wiped.up.url, trust_env=False) as http:
        for number in range(VERSIONS):
            assert http.put("/v1/n/d", json={"n": number}).status_code in {200, 201}
        before = {path: http.get(path).json() for path in READS}
        wiped.wipe()
        unanswered = 0

        def is_filled_and_read() -> bool:
            nonlocal unanswered
            is_filled, answers = wiped.is_filled(), {path: http.get(path) for path in READS}
            for path, answer in answers.items():
                assert answer.status_code == 503 or answer.json() == before[path], (path, answer.text)
                unanswered += answer.status_code == 503
            return is_filled and all(answer.status_code == 200 for answer in answers.values())

        until(is_filled_and_read)
        assert unanswered
        wiped.wipe()
        # A new event finds the store empty.
        assert until(lambda: _written(http)) == VERSIONS + 1
        until(lambda: http.get("/v1/n/d").status_code == 200)
        assert http.get("/v1/n/d").headers["refold-version"] == str(VERSIONS + 1)


def _written(http: httpx.Client) -> int:
    answer = http.put("/v1/n/d", json={"n": 0}, headers={"refold-id": "last"}, timeout=30)
    assert answer.status_code in {200, 202, 503}, answer.text
    return answer.json()["version"] if answer.status_code == 200 else 0
