"""`refold resolver` as a process: it settles what happened while it was away, and what it hears of."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refold.client import JsonPatch, Outcome, Refold, Rejected, Resolver, Undecided, resolver
from refold.client.resolvers import settle
from support.http import Api
from support.services import until
from support.system import System
from support.up import environment, run_refold

MODULE = """
import refold


@refold.resolver("cart")
def union(base, head, incoming):
    head["items"] = sorted({*head["items"], *incoming["items"]})
    return head


@refold.resolver("broken")
def broken(base, head, incoming):
    raise LookupError("no decision")
"""
ENDLESS = "3600"
"""Seconds between two polls, so that only notices are left."""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "carts.py"
    path.write_text(MODULE)
    return path


@contextmanager
def resolving(system: System, module: Path, poll: str = ENDLESS) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service, and expect that it ends when it is asked to."""
    servers = ["--url", system.url, "--nats-url", system.nats.url("author")]
    command = [sys.executable, "-m", "refold", "resolver", str(module), "--poll", poll, *servers]
    with (module.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment(), stderr=log)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (module.parent / "log").read_text()
    finally:
        process.kill()
        process.wait()


async def contest(refold: Refold, namespace: str, document: str, name: str, *items: str) -> Outcome:
    """Make a conflict: add items to a cart to which another has added some since."""
    await refold.put(namespace, document, {"items": ["a"]})
    seen = await refold.put(namespace, document, {"items": ["a", "b"]}, actor="bob")
    patch = [{"op": "add", "path": "/items/-", "value": item} for item in items]
    base = (seen.version or 0) - 1
    return await refold.patch(
        namespace, document, patch, base=base, on_conflict=f"custom:{name}", actor="eve"
    )


async def open_ones(refold: Refold, namespace: str) -> list[int]:
    return [conflict.sequence async for conflict in refold.conflicts(namespace)]


async def test_a_resolver_settles_what_it_missed_and_what_it_hears_of(
    system: System, api: Api, module: Path
) -> None:
    async with Refold(system.url) as refold:
        await contest(refold, api.namespace, "missed/1", "cart", "c", "d")
        stuck = await contest(refold, api.namespace, "stuck", "broken", "c")
        foreign = await contest(refold, api.namespace, "foreign", "unknown", "c")
        left = [stuck.sequence, foreign.sequence]
        with resolving(system, module):
            await until(lambda: _is(open_ones(refold, api.namespace), left))
            missed = await refold.get(api.namespace, "missed/1")
            assert missed.state == {"items": ["a", "b", "c", "d"]}
            await contest(refold, api.namespace, "heard", "cart", "e")
            await until(lambda: _is(open_ones(refold, api.namespace), left))
        heard = [change async for change in refold.history(api.namespace, "heard")]
        assert [change.actor for change in heard] == [None, "bob", "resolver:cart"]
        assert heard[-1].patch == [{"op": "add", "path": "/items/2", "value": "e"}]
        assert "no decision" in (module.parent / "log").read_text()


async def _is(found: Any, expected: Any) -> bool:
    return await found == expected


async def test_a_decision_is_made_again_on_a_newer_head_and_published_once(system: System, api: Api) -> None:
    seen: list[Any] = []
    async with Refold(system.url) as refold, Refold(system.url) as other:

        @resolver("cart")
        def union(base: Any, head: Any, incoming: Any) -> Any:
            seen.append((base, head, incoming))
            return {"items": [*head["items"], *incoming["items"][len(base["items"]) :]]}

        contested = await contest(refold, api.namespace, "d", "cart", "c")
        conflict = await refold.conflict(api.namespace, "d", contested.sequence or 0)
        await other.merge(api.namespace, "d", {"items": ["z"]})
        outcomes = await asyncio.gather(*(settle(refold, union, conflict) for _ in range(3)))
        assert (await refold.get(api.namespace, "d")).state == {"items": ["z", "c"]}
        assert {outcome.version for outcome in outcomes if outcome} == {4}
        assert seen[0] == ({"items": ["a"]}, {"items": ["a", "b"]}, {"items": ["a", "c"]})
        assert ({"items": ["a"]}, {"items": ["z"]}, {"items": ["a", "c"]}) in seen
        settled = await refold.conflict(api.namespace, "d", conflict.sequence)
        assert await settle(refold, union, settled) is None


@pytest.mark.parametrize(
    ("decision", "state"),
    [(JsonPatch([{"op": "add", "path": "/n", "value": 1}]), {"items": ["a", "b"], "n": 1}), (None, None)],
)
async def test_a_decision_may_be_a_patch_or_none(system: System, api: Api, decision: Any, state: Any) -> None:
    async with Refold(system.url) as refold:
        contested = await contest(refold, api.namespace, "d", "x", "c")
        conflict = await refold.conflict(api.namespace, "d", contested.sequence or 0)
        made = Resolver(name="x", decide=lambda *_: decision)
        outcome = await settle(refold, made, conflict)
        assert outcome is not None
        assert outcome.status == "applied"
        assert (await api.get("d")).status_code == (404 if state is None else 200)
        assert await open_ones(refold, api.namespace) == []


async def test_what_cannot_be_settled_stays_open(system: System, api: Api) -> None:
    async with Refold(system.url) as refold:
        await refold.put(api.namespace, "d", {})
        await refold.put(api.namespace, "d", {})
        unfit = await refold.patch(
            *(api.namespace, "d", [{"op": "remove", "path": "/none"}]), base=1, on_conflict="custom:x"
        )
        conflict = await refold.conflict(api.namespace, "d", unfit.sequence or 0)
        with pytest.raises(Undecided, match="does not apply"):
            await settle(refold, Resolver(name="x", decide=lambda *_: {}), conflict)
        contested = await contest(refold, api.namespace, "e", "x", "c")
        conflict = await refold.conflict(api.namespace, "e", contested.sequence or 0)
        impossible = Resolver(name="x", decide=lambda *_: JsonPatch([{"op": "remove", "path": "/none"}]))
        outcome = await settle(refold, impossible, conflict)
        assert outcome is not None
        with pytest.raises(Rejected, match="target_missing"):
            outcome.raise_for_status()
        assert await open_ones(refold, api.namespace) == [unfit.sequence, contested.sequence]


@pytest.mark.parametrize("missing", ["gateway", pytest.param("broker", marks=pytest.mark.slow)])
def test_a_resolver_without_a_system_ends_with_3(system: System, module: Path, missing: str) -> None:
    nowhere = "127.0.0.1:1"
    if missing == "gateway":
        urls = f"http://{nowhere}", system.nats.url("author")
    else:
        # It is tried again for ten seconds.
        urls = system.url, f"nats://{nowhere}"
    ended = run_refold("resolver", str(module), "--url", urls[0], "--nats-url", urls[1])
    assert ended.returncode == 3, ended.stderr


def test_a_module_without_a_resolver_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    for name, said in (
        ("empty.py", "has no resolver"),
        ("none.py", "no such file"),
        ("no.such", "no such module"),
    ):
        ended = run_refold("resolver", str(tmp_path / name) if name.endswith("py") else name)
        assert ended.returncode in {1, 2}
        assert said in ended.stderr
