"""Events by curl, nats-py, Node, a bare socket, HTTP and as CloudEvents do the same, also at the same time.

One change is made by each of the complete scripts under examples/any_language.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from refold.core import json_text
from refold.core.fold import RULES, genesis
from refold.core.stream import Record
from refold.wiring.servers import open_log
from support import node
from support.concurrent_authors import HttpAuthor, NatsPyAuthor, NodeAuthor, SocketAuthor
from support.events import subject_of
from support.up import environment

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "any_language"
README = ROOT / "README.md"

STATE = '{"by":"Zoë","paid":17.5}'
PATCH = [{"op": "add", "path": "/paid", "value": 17.5}, {"op": "add", "path": "/by", "value": "Zoë"}]
CHANGE = {"version": 1, "status": "applied", "type": "order.paid", "actor": "till-3", "patch": PATCH}
OUTCOME = {"namespace": "acme", "status": "applied", "version": 1, "created": True}


@pytest.fixture
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command of one of the scripts, without its address."""
    path = EXAMPLES / request.param
    if path.suffix == ".mjs":
        return [node.program("node"), str(node.installed(path.parent, tmp_path / "node") / path.name)]
    if path.suffix == ".sh":
        if shutil.which("curl") is None:
            pytest.skip("curl is not on this machine")
        return ["sh", str(path)]
    return [sys.executable, str(path)]


WAYS = {
    "curl.sh": ["order-curl"],
    "nats_py.py": ["order-nats-py"],
    "node/publish.mjs": ["order-node"],
    "plain_socket.py": ["order-plain-socket"],
    "cloudevents.py": ["order-structured", "order-binary"],
}


def test_every_script_is_tested():
    scripts = {
        str(path.relative_to(EXAMPLES))
        for pattern in ("*.py", "*.sh", "*/*.mjs")
        for path in EXAMPLES.glob(pattern)
    }
    assert scripts == WAYS.keys()


@pytest.mark.parametrize(("command", "documents"), WAYS.items(), ids=WAYS, indirect=["command"])
def test_scripts_in_every_language_produce_the_same_change(system, command, documents):
    address = system.url if command[0] == "sh" else system.nats.address
    first, again = run(command, address), run(command, address)
    assert [outcome["document"] for outcome in first] == documents
    for outcome, repeated in zip(first, again, strict=True):
        assert outcome.items() >= OUTCOME.items()
        read = reader(system.url, outcome["document"])
        assert read("").text == STATE
        (change,) = read("/history").json()["items"]
        assert change.items() >= CHANGE.items()
        assert outcome == read(f"/outcomes/{outcome['sequence']}").json()
        assert (repeated["status"], repeated["first"]["sequence"]) == ("duplicate", outcome["sequence"])


@pytest.mark.parametrize(("language", "script"), [("py", "nats_py.py"), ("js", "node/publish.mjs")])
def test_the_readme_quotes_the_scripts_verbatim(language, script):
    shown = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    lines = [line.strip() for line in (EXAMPLES / script).read_text().splitlines()]
    for line in [line.strip() for block in shown for line in block.splitlines()]:
        assert line in lines, line


@pytest.mark.parametrize("media", ["application/cloudevents+json", "application/cloudevents-batch+json"])
def test_over_http_a_structured_cloud_event_is_refused_and_not_misread(system, media):
    url = f"{system.url}/v1/acme/order-by-http"
    for method in ("PUT", "PATCH"):
        answer = httpx.request(method, url, content=b"{}", headers={"Content-Type": media}, trust_env=False)
        assert answer.status_code == 415


DOCUMENTS = ("plan", "notes")
EVENTS = 36
BEGIN = {"l": ["a", "b", "c"], "n": 0, "o": {"shared": ""}, "t": "text"}


async def test_authors_in_every_language_who_write_at_the_same_time_end_with_one_state(system, tmp_path):
    namespace, url = system.namespace(), system.nats.address
    package = await asyncio.to_thread(node.installed, EXAMPLES / "node", tmp_path / "node")
    python, js = NatsPyAuthor(url, namespace, DOCUMENTS), NodeAuthor(url, namespace, DOCUMENTS, package)
    bare, http = SocketAuthor(url, namespace, DOCUMENTS), HttpAuthor(system.url, namespace, DOCUMENTS)
    await python.connect()
    await js.connect("node", EVENTS)
    await asyncio.to_thread(http.begin, BEGIN)
    written = await asyncio.gather(
        python.write("python", EVENTS),
        js.write(),
        asyncio.to_thread(bare.write, "socket", EVENTS),
        asyncio.to_thread(http.write, "http", EVENTS // 3),
    )
    outcomes = [outcome for some in written for outcome in some]
    assert {outcome["status"] for outcome in outcomes} == {"applied", "merged", "rejected"}
    versions = {name: max(it["version"] for it in outcomes if it["document"] == name) for name in DOCUMENTS}
    found, *_ = await asyncio.gather(
        js.follow(versions),
        python.follow(versions),
        asyncio.to_thread(bare.follow, versions),
        asyncio.to_thread(http.follow, versions),
    )
    states = await asyncio.to_thread(http.states, max(outcome["sequence"] for outcome in outcomes))
    heads = {name: [version, states[name]] for name, version in versions.items()}
    assert found == heads
    for author in (python, bare, http):
        assert author.replicas.heads() == heads, author
    folded = await folded_in_node(system, namespace)
    assert {name: [int(folded[name]["version"]), folded[name]["state"]] for name in DOCUMENTS} == heads
    await python.close()
    bare.close()
    http.close()


async def folded_in_node(system, namespace: str) -> dict[str, Any]:
    """Fold a namespace's events by the fold in JavaScript, as a log of their own."""
    log = await open_log(system.nats.url("projector"), "any-language")
    records = [Record(1, 0, subject_of("_refold", "log"), b"", json_text.dumps(genesis("log-1", RULES[2])))]
    try:
        last = (await log.info()).last_sequence
        async for run in log.read(0):
            ours = [record for record in run if record.subject.split(b".")[2] == namespace.encode()]
            records += [record._replace(sequence=at) for at, record in enumerate(ours, len(records) + 1)]
            if run[-1].sequence >= last:
                break
    finally:
        await log.close()
    with node.foreign_fold() as foreign:
        found = foreign.fold(records)
    return {key.partition("/")[2]: head for key, head in found["documents"].items()}


def run(command: list[str], address: str) -> list[dict[str, Any]]:
    """Run a script; it prints each outcome on a line."""
    done = subprocess.run(
        [*command, address], capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def reader(url: str, document: str) -> Callable[[str], httpx.Response]:
    """Read a document's state, patch and outcome."""

    def read(path: str) -> httpx.Response:
        answer = httpx.get(f"{url}/v1/acme/{document}{path}", trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer

    return read
