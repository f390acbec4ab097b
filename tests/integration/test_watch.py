"""What follows a running system gets each version once and in order, whatever is restarted in between."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import aclosing

import pytest

from refold.client import NamespaceUpdate, Refold, Refused, link
from support.system import free_port, start_service, wait_ready
from support.up import environment

DEADLINE_SECONDS = 60
DOCUMENTS = ("a", "b")
WRITES = 30
KILLS = (10, 20)


@pytest.fixture
async def refold(system):
    async with Refold(system.url) as client:
        yield client


class Killed:
    """A gateway of its own on a port, which is killed and started again."""

    def __init__(self, system, path):
        self._port, self._log = free_port(), path / "gateway.log"
        self._given = {**system.gateway_environment, "REFOLD_HTTP": f"127.0.0.1:{self._port}"}
        self.url = f"http://127.0.0.1:{self._port}"
        self.service = self._start()
        wait_ready(self.url, {"gateway": self.service})

    def _start(self):
        return start_service("gateway", self._given, self._log)

    def kill(self):
        self.service.process.kill()
        self.service.process.wait()
        self.service = self._start()


@pytest.fixture
def killed(system, tmp_path):
    gateway = Killed(system, tmp_path)
    yield gateway
    gateway.service.stop()


async def follow(updates, until, taken):
    """Collect updates until one ends it."""
    async with aclosing(updates), asyncio.timeout(DEADLINE_SECONDS):
        async for update in updates:
            taken.append(update)
            if until(update):
                return


async def write(refold, namespace):
    """Write to the documents in turn; pause after each round."""
    for number in range(1, WRITES + 1):
        for document in DOCUMENTS:
            patch = [{"op": "inc", "path": "/n", "inc": 1}, {"op": "add", "path": "/list/-", "value": number}]
            if number == 1:
                patch = [{"op": "add", "path": "", "value": {"n": 1, "list": [1]}}]
            await refold.patch(namespace, document, patch, actor=f"author-{number}")
        yield number


async def test_followers_get_each_version_once_and_in_order_over_killed_gateways(refold, system, killed):
    namespace = system.namespace()
    whole, part, changes, seen = [], [], [], {}
    reached = {number: asyncio.Event() for number in KILLS}

    def is_last(update):
        seen[update.document] = update.version
        return seen == dict.fromkeys(DOCUMENTS, WRITES)

    def is_last_version(update):
        if update.version in reached:
            reached[update.version].set()
        return update.version == WRITES

    async with Refold(killed.url) as follower, asyncio.TaskGroup() as group:
        versions = follower.watch(namespace, "a", merge=False)
        # The first update confirms the subscription.
        assert (await anext(versions)).is_absent
        for following in (
            follow(versions, is_last_version, whole),
            follow(follower.watch(namespace, "b", path="/list"), lambda it: it.version == WRITES, part),
            follow(follower.watch(namespace, mode="changes", after=0), is_last, changes),
        ):
            group.create_task(following)
        async for number in write(refold, namespace):
            if number in KILLS:
                await reached[number].wait()
                killed.kill()
    expected = [*range(1, WRITES + 1)]
    assert [it.version for it in whole] == expected
    assert [it.state for it in whole] == [{"n": n, "list": expected[:n]} for n in expected]
    assert [it.version for it in part] == sorted({it.version for it in part})
    assert part[-1].state == expected
    for document in DOCUMENTS:
        found = [it for it in changes if it.document == document]
        assert [(it.version, it.actor) for it in found] == [(n, f"author-{n}") for n in expected]


async def test_a_watch_begins_after_a_version_with_the_state_there(refold, system):
    namespace = system.namespace()
    for number in range(4):
        await refold.put(namespace, "d", {"n": number, "other": [number]})
    for path, state in ((None, {"n": 3, "other": [3]}), ("/n", 3)):
        options = {"path": path} if path else {}
        taken = []
        await follow(
            refold.watch(namespace, "d", after=2, merge=False, **options), lambda it: it.version == 4, taken
        )
        assert [it.version for it in taken] == [3, 4]
        assert taken[1].state == state
        again = []
        await follow(refold.watch(namespace, "d", after=taken[0].cursor, **options), lambda _: True, again)
        assert (again[0].version, again[0].state) == (4, state)


async def test_values_of_a_pattern_are_followed(refold, system):
    namespace = system.namespace()
    await refold.put(namespace, "d", {"users": {"7": {"at": 1}, "8": {"at": 2}}})
    updates = refold.watch(namespace, "d", path="/users/*/at")
    async with aclosing(updates):
        assert (await anext(updates)).state == {"/users/7/at": 1, "/users/8/at": 2}
        await refold.patch(namespace, "d", [{"op": "remove", "path": "/users/7"}])
        update = await anext(updates)
        assert (update.state, update.gone) == ({"/users/8/at": 2}, ("/users/7/at",))


async def test_what_streams_bring_also_comes_by_polling(refold, system, monkeypatch):
    # Every stream begins with silence.
    monkeypatch.setattr(link, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(link, "PAUSE_SECONDS_MAX", 0.0)
    monkeypatch.setattr(link, "PAUSE_SECONDS_MIN", 0.0)
    namespace, lines = system.namespace(), []
    async with Refold(system.url, trace=lines.append) as follower:
        updates = follower.watch(namespace, "d", merge=False)
        assert (await anext(updates)).is_absent
        for number in range(4):
            await refold.put(namespace, "d", {"n": number})
        taken, changes = [], []
        await follow(updates, lambda it: it.version == 4, taken)
        assert [(it.version, it.state) for it in taken] == [(n + 1, {"n": n}) for n in range(4)]
        await follow(follower.watch(namespace, mode="changes", after=0), lambda it: it.version == 4, changes)
        assert [it.version for it in changes] == [1, 2, 3, 4]
    assert lines
    assert all("wait=" in line for line in lines)


async def test_heads_of_a_prefix_are_followed(refold, system):
    namespace = system.namespace()
    for name in ("order-1", "other", "order-2"):
        await refold.put(namespace, name, 1)
    taken = []
    await follow(
        refold.watch(namespace, prefix="order-", after=0), lambda it: it.document == "order-2", taken
    )
    assert {it.document: it.version for it in taken} == {"order-1": 1, "order-2": 1}
    assert isinstance(taken[0], NamespaceUpdate)


async def test_an_invalid_path_is_refused(refold, system):
    with pytest.raises(Refused) as refused:
        await anext(refold.watch(system.namespace(), "d", path="no-pointer"))
    assert refused.value.reason == "bad_pattern"


async def test_the_command_prints_each_version_and_ends_cleanly_when_interrupted(refold, system):
    namespace = system.namespace()
    await refold.put(namespace, "d", {"n": 1})
    command = [sys.executable, "-m", "refold", "watch", f"{namespace}/d", "--no-merge", "--url", system.url]
    for form in ("json", "text"):
        process = await asyncio.create_subprocess_exec(
            *command, "-o", form, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            first = await process.stdout.readline()
            outcome = await refold.merge(namespace, "d", {form: 1}, actor="ann")
            second = await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, errors = await process.communicate()
        assert (process.returncode, rest, errors) == (0, b"", b"")
        if form == "json":
            assert json.loads(first)["state"] == {"n": 1}
            found = json.loads(second)
            assert (found["version"], found["state"], found["actor"]) == (
                outcome.version,
                {"json": 1, "n": 1},
                "ann",
            )
        else:
            assert first.decode().split()[0] == "2"
            assert second.decode().split()[0] == "3"
            assert second.decode().endswith("  ann  add /text 1\n")
