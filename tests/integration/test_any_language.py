"""One change, made by curl, nats-py, Node, a bare socket and as CloudEvents: the same state, patch and outcome.

Each is a complete script under examples/any_language.
"""

from __future__ import annotations

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

from support import node
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
