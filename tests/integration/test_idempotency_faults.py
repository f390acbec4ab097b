"""A write repeated after any fault is applied once: real servers, with cut connections and killed processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from refold.client import Outcome, Refold
from refold.embedded.folder import DataFolder, open_folder
from refold.embedded.nats import start_nats
from refold.embedded.postgres import DATABASE, PostgresServer
from refold.wiring.servers import make_log
from refold.wiring.settings import environment_without
from support.http import Api
from support.proxy import Proxy
from support.servers import complete
from support.system import Service, free_port, start_service, wait_ready

WAIT_SECONDS = 30
LOOK_SECONDS = 0.01


class Site:
    """A whole system of processes that may be killed; proxies before the broker and before the gateway."""

    def __init__(self, folder: DataFolder, dsn: str) -> None:
        self._folder = folder
        self._dsn = dsn
        self.nats = complete(start_nats(folder, sync="os"))
        complete(make_log(self.nats.url("administrator")))
        self.http_port = free_port()
        self.to_broker = Proxy(self.nats.host, self.nats.port)
        self.to_gateway = Proxy("127.0.0.1", self.http_port)
        self.services: dict[str, Service] = {}
        self.namespaces = 0

    @property
    def url(self) -> str:
        """The gateway's own address."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def proxied_url(self) -> str:
        """The gateway behind its proxy."""
        return f"http://127.0.0.1:{self.to_gateway.port}"

    def start(self, *names: str) -> None:
        """Start services."""
        for name in names:
            self.services[name] = start_service(
                name, self._environment(name), self._folder.path / f"{name}.log"
            )

    def kill(self, *names: str) -> None:
        """End services as a power cut would."""
        for name in names:
            self.services[name].process.kill()
            self.services[name].process.wait()

    async def restart_broker(self) -> None:
        """End the broker as a power cut would, and start it again on its port and log.

        In this thread: a server's child ends with the thread that started it.
        """
        self.nats.child.kill()
        port = self.nats.port
        self.nats = await start_nats(self._folder, port=port, sync="os")

    def ready(self) -> None:
        """Wait until everything can be reached."""
        wait_ready(self.url, self.services)

    def stop(self) -> None:
        """End everything."""
        self.kill(*self.services)
        self.to_broker.close()
        self.to_gateway.close()
        complete(self.nats.stop())

    def _environment(self, name: str) -> Mapping[str, str]:
        url = self.nats.url("gateway" if name == "gateway" else "projector")
        proxied = url.replace(f":{self.nats.port}", f":{self.to_broker.port}")
        return environment_without() | {
            "REFOLD_NATS_URL": proxied if name == "gateway" else url,
            "REFOLD_NATS_REPLY_URL": self.nats.url("reply"),
            "REFOLD_POSTGRES_URL": self._dsn,
            "REFOLD_HTTP": f"127.0.0.1:{self.http_port}",
            "REFOLD_PROBE": "127.0.0.1:0",
        }


@pytest.fixture(scope="module")
def site(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    complete(_execute(postgres_server.dsn, "CREATE DATABASE idempotency"))
    dsn = postgres_server.dsn.removesuffix(DATABASE) + "idempotency"
    with ExitStack() as endings:
        folder = endings.enter_context(complete(open_folder(tmp_path_factory.mktemp("idempotency"))))
        made = Site(folder, dsn)
        endings.callback(made.stop)
        made.start("projector", "gateway")
        made.ready()
        yield made


@pytest.fixture
async def api(site: Site) -> AsyncIterator[Api]:
    """A namespace of the test, directly at the gateway."""
    await asyncio.to_thread(site.ready)
    site.namespaces += 1
    async with httpx.AsyncClient(base_url=site.url, trust_env=False, timeout=WAIT_SECONDS) as client:
        yield Api(client, f"t{site.namespaces}")


@pytest.fixture
async def refold(site: Site) -> AsyncIterator[Refold]:
    """The SDK, through the proxy."""
    async with Refold(site.proxied_url) as client:
        yield client


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await holds():  # noqa: ASYNC110 - what is waited for is another process's.
            await asyncio.sleep(LOOK_SECONDS)


async def answered(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Send until the log accepts it: 503 means that it was not stored, so it can be repeated without an id."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (response := await send()).status_code == 503:  # noqa: ASYNC110 - another process's, too.
            await asyncio.sleep(LOOK_SECONDS)
    assert response.status_code != 504, response.text
    return response


def summary(response: httpx.Response) -> tuple[int, str, int]:
    """Return an answer's status, its outcome's first status, and the version."""
    view = response.json()
    view = view.get("outcome", view)
    return response.status_code, view.get("first", view)["status"], view["version"]


# Acknowledgements and events lost between the gateway and the broker


async def losing_answers(site: Site, all_exist: Callable[[], Awaitable[bool]]) -> None:
    with site.to_broker.losing_answers():
        await until(all_exist)


async def losing_requests(site: Site, _: object) -> None:
    with site.to_broker.losing_requests():
        await asyncio.to_thread(site.to_broker.until_lost, 100, WAIT_SECONDS)


async def cut_in_mid_frame(site: Site, _: object) -> None:
    site.to_broker.cut_after(100)


async def cut_in_mid_batch(site: Site, _: object) -> None:
    site.to_broker.cut_after(6_000)


FAULTS = [losing_answers, losing_requests, cut_in_mid_frame, cut_in_mid_batch]


async def disturbed(
    site: Site,
    api: Api,
    fault: Callable[..., Coroutine[Any, Any, None]],
    new: int,
    *sends: Callable[..., Any],
) -> list[Any]:
    """Send all concurrently while the broker's connection breaks; expect `new` events in the log."""
    before = await api.events()

    async def all_exist() -> bool:
        return await api.events() >= before + new

    breaking = asyncio.create_task(fault(site, all_exist))
    await asyncio.sleep(0)
    answers = await asyncio.gather(*(answered(send) for send in sends))
    await breaking
    # The bytes after which the connection is cut may not have been sent.
    site.to_broker.heal()
    if fault is losing_answers:
        assert await api.events() == before + new, "what is in the log is not sent again"
    return answers


@pytest.mark.parametrize("fault", FAULTS)
async def test_writes_with_a_broken_broker_connection_are_applied_once(
    site: Site, api: Api, fault: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    for name in "abcdef":
        await api.put(name, {"n": 0}, Idempotency_Key="first")
    add = {"op": "add", "path": "/list", "value": []}
    lines = [{"doc": f"l{number % 3}", "merge": {f"k{number}": number}} for number in range(60)]
    lines[30] = {"doc": "f", "put": {"n": 0}, "id": "first"}
    lines[40] = {"doc": "f", "put": {"n": 9}, "id": "first"}
    content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    strict, gone, plain, bulk = await disturbed(
        site,
        api,
        fault,
        63,
        lambda: api.put("a", 1, If_Match='"1"'),
        lambda: api.delete("b"),
        lambda: api.patch("c", add, Idempotency_Key="p"),
        lambda: api.ask("POST", "events", content=content),
    )
    assert [summary(strict), summary(gone), summary(plain)] == [(200, "applied", 2)] * 3
    outcomes = [orjson.loads(line) for line in bulk.content.splitlines()]
    assert [outcome["status"] for at, outcome in enumerate(outcomes) if at not in {30, 40}] == [
        "applied"
    ] * 58
    assert (outcomes[30]["status"], outcomes[30]["first"]["version"]) == ("duplicate", 1)
    assert (outcomes[40]["status"], outcomes[40]["reason"]) == ("rejected", "id_reused")
    for number in range(3):
        wanted = {f"k{at}": at for at in range(number, 60, 3) if at not in {30, 40}}
        found = await api.get(f"l{number}")
        assert (found.json(), found.headers["refold-version"]) == (wanted, str(len(wanted)))
    # Now retries and refused writes.
    again, made, refused, reused = await disturbed(
        site,
        api,
        fault,
        4,
        lambda: api.patch("c", add, Idempotency_Key="p"),
        lambda: api.put("new", 1, If_None_Match="*", Idempotency_Key="k"),
        lambda: api.patch("d", {"op": "remove", "path": "/x"}),
        lambda: api.put("e", {"n": 1}, Idempotency_Key="first"),
    )
    assert again.json()["status"] == "duplicate"
    assert [summary(again), summary(made)] == [(200, "applied", 2), (201, "applied", 1)]
    assert (refused.json()["reason"], reused.json()["reason"]) == ("target_missing", "id_reused")
    assert (await api.get("c/outcomes", id="p")).json()["sequence"] == again.json()["first"]["sequence"]


# Between the client and the gateway


Write = Callable[[Refold], Awaitable[Outcome]]


def writes(namespace: str) -> list[Write]:
    """Every method by which the SDK writes one document; the first four create, the others change it."""
    operations = [{"op": "add", "path": "/list", "value": [1]}]
    return [
        lambda refold: refold.put(namespace, "a", 1),
        lambda refold: refold.merge(namespace, "b", {"n": 1}),
        lambda refold: refold.patch(namespace, "c", operations),
        lambda refold: refold.put(namespace, "d", 1, if_absent=True),
        lambda refold: refold.put(namespace, "e", 2, if_version=1),
        lambda refold: refold.delete(namespace, "f"),
        lambda refold: refold.delete(namespace, "g", if_version=1),
    ]


async def test_sdk_writes_are_applied_once_when_the_gateway_is_killed(
    site: Site, api: Api, refold: Refold
) -> None:
    for name in "efg":
        await refold.put(api.namespace, name, 1)
    events = [{"doc": "h", "merge": {f"k{number}": number}} for number in range(50)]
    with site.to_gateway.losing_answers():
        single = asyncio.gather(*(write(refold) for write in writes(api.namespace)))
        many = asyncio.create_task(refold.append(api.namespace, events))

        async def all_exist() -> bool:
            assert [single.done(), many.done()] == [False, False], "neither is answered"
            return await api.events() >= 3 + 7 + 50

        await until(all_exist)
        site.kill("gateway")
    site.start("gateway")
    outcomes = await single
    assert [(outcome.status, outcome.first_status) for outcome in outcomes] == [("duplicate", "applied")] * 7
    assert [outcome.version for outcome in outcomes] == [1, 1, 1, 1, 2, 2, 2]
    assert all(outcome.is_effective for outcome in outcomes)
    assert [outcome.version for outcome in await many] == list(range(1, 51))
    assert (await api.get("h")).json() == {f"k{number}": number for number in range(50)}


async def test_sdk_writes_are_applied_once_when_the_broker_is_killed(
    site: Site, api: Api, refold: Refold
) -> None:
    writers, rounds, rows = 6, 8, 12
    done = 0

    async def write(name: str) -> None:
        nonlocal done
        for number in range(rounds):
            outcomes = [await refold.merge(api.namespace, name, {"n": number})]
            outcomes += await refold.append(
                api.namespace, [{"doc": name, "merge": {"m": [number, at]}} for at in range(rows)]
            )
            assert all(outcome.is_effective or outcome.status == "pending" for outcome in outcomes)
            done += 1

    async def is_half_done() -> bool:
        return done >= writers * rounds // 2

    async def all_are_folded() -> bool:
        return await api.events() >= writers * rounds * (rows + 1)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(writers):
            tasks.create_task(write(f"w{writer}"))
        await until(is_half_done)
        await site.restart_broker()
    await until(all_are_folded)
    for writer in range(writers):
        found = await api.get(f"w{writer}")
        assert found.json() == {"n": rounds - 1, "m": [rounds - 1, rows - 1]}
        assert found.headers["refold-version"] == str(rounds * (rows + 1))


# Everything restarted between a write and its retry


async def test_events_not_folded_before_a_crash_are_applied_once_when_repeated(site: Site, api: Api) -> None:
    for name in "abcde":
        await api.put(name, {"n": 0})
    add = {"op": "add", "path": "/n", "value": 1}
    line = b'{"doc":"e","merge":{"b":1},"id":"k"}\n'
    sends: list[Callable[..., Awaitable[httpx.Response]]] = [
        lambda **how: api.patch("a", add, Idempotency_Key="k", **how),
        lambda **how: api.put("b", 2, If_Match='"1"', Idempotency_Key="k", **how),
        lambda **how: api.delete("c", Idempotency_Key="k", **how),
        lambda **how: api.patch("d", {"op": "remove", "path": "/x"}, Idempotency_Key="k", **how),
        lambda **how: api.ask("POST", "events", content=line, **how),
        lambda **how: api.put("f", 1, If_None_Match="*", Idempotency_Key="k", **how),
    ]
    site.kill("projector")
    firsts = [await send(Refold_Wait="0") for send in sends]
    # No projector runs: a retry is pending as its first was.
    retries = [await send(Refold_Wait="0") for send in sends[:2]]
    assert [response.status_code for response in (*firsts, *retries)] == [
        202,
        202,
        202,
        202,
        200,
        202,
        202,
        202,
    ]
    assert retries[1].json()["sequence"] == firsts[1].json()["sequence"], (
        "a strict write is not written twice"
    )
    site.kill("gateway")
    await site.restart_broker()
    site.start("projector", "gateway")
    await asyncio.to_thread(site.ready)
    for send, first, name in zip(sends, firsts, "abcdef", strict=True):
        again = (await send()).json()
        again = again.get("outcome", again)
        assert again["status"] == "duplicate"
        assert again["first"]["sequence"] == first.json()["sequence"]
        assert again["first"]["status"] == ("rejected" if name == "d" else "applied")
        found = (await api.get(f"{name}/outcomes", id="k")).json()
        assert {key: found[key] for key in again["first"]} == again["first"]
        assert found["version"] == (1 if name in "df" else 2)
    problem = await api.put("b", 3, If_Match='"1"', Idempotency_Key="k")
    assert problem.status_code == 412
