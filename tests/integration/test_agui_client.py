"""The official AG-UI client, unmodified, on the running system: in Node and in a browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from refold.client import Refold
from support import node
from support.agui_changes import follow_changes
from support.agui_client import PACKAGE, Session, browser, in_node
from support.system import System, free_port, start_service, wait_ready

EXAMPLE = Path(__file__).parents[2] / "examples" / "agui"
SEED = 7

JSON = {"Content-Type": "application/json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.installed(PACKAGE, tmp_path_factory.mktemp("agui") / "package")


@pytest.fixture
def client(package: Path) -> Iterator[Session]:
    with in_node(package) as running:
        yield running


class Shared:
    """A document, written to by others."""

    def __init__(self, system: System, http: httpx.Client) -> None:
        namespace = system.namespace()
        self.url = f"{system.url}/v1/{namespace}/d"
        self.agui = f"{system.url}/agui/{namespace}/d"
        self._http = http

    def put(self, state: Any) -> int:
        return self._version(self._http.put(self.url, content=orjson.dumps(state), headers=JSON))

    def patch(self, *operations: Any) -> int:
        return self._version(self._http.patch(self.url, content=orjson.dumps(operations), headers=JSON_PATCH))

    def state(self) -> Any:
        return orjson.loads(self._http.get(self.url).content)

    def _version(self, response: httpx.Response) -> int:
        assert response.is_success, response.text
        version: int = response.json()["version"]
        return version


@pytest.fixture
def shared(system: System) -> Iterator[Shared]:
    with httpx.Client(trust_env=False, timeout=60) as http:
        yield Shared(system, http)


def test_the_official_client_edits_a_document_by_exchanges(shared: Shared, client: Session):
    version = shared.put({"title": "one", "n": 2**53 + 1, "f": 1.0, "tags": ["a", "b"]})
    client.do("ui", "open", url=shared.agui, thread="t")
    first = client.do("ui", "run")
    assert first["result"] == {"version": version, "sequence": first["result"]["sequence"], "why": "current"}
    assert first["state"] == {"title": "one", "n": 2**53, "f": 1, "tags": ["a", "b"]}
    shared.patch({"op": "add", "path": "/tags/0", "value": "new"})
    edited = first["state"] | {"title": "two", "tags": ["a", "B"]}
    second = client.do("ui", "run", state=edited, refold={"base": version})
    assert second["custom"] == []
    assert shared.state() == {"title": "two", "n": 2**53 + 1, "f": 1.0, "tags": ["new", "a", "B"]}
    assert second["state"] == shared.state() | {"n": 2**53}
    assert client.warnings == []


def test_the_stamp_is_all_that_a_client_without_options_needs(shared: Shared, client: Session):
    shared.put({"a": 1})
    client.do("ui", "open", url=f"{shared.agui}?stamp=_version", thread="t")
    state = client.do("ui", "run")["state"]
    assert state == {"a": 1, "_version": 1}
    state = client.do("ui", "run", state=state | {"b": 2})["state"]
    assert state == {"a": 1, "b": 2, "_version": 2}
    assert shared.state() == {"a": 1, "b": 2}
    assert client.warnings == []


def test_a_refused_run_throws_with_its_status_and_problem(shared: Shared, client: Session):
    shared.put({"a": 1})
    client.do("ui", "open", url=f"{shared.agui}?stamp=a", thread="t")
    refused = client.do("ui", "run")
    assert refused["status"] == 409
    assert refused["error"].startswith("HTTP 409: ")
    assert "stamp_taken" in refused["error"]


def test_a_rejected_edit_is_told_and_answered_with_the_state(shared: Shared, client: Session):
    shared.put({"a": 1})
    client.do("ui", "open", url=f"{shared.agui}?on_conflict=reject", thread="t")
    client.do("ui", "run")
    shared.put({"a": 2})
    answer = client.do("ui", "run", state={"a": 3}, refold={"base": 1})
    assert [notice["name"] for notice in answer["custom"]] == ["refold.rejected"]
    assert answer["custom"][0]["value"]["reason"] == "conflict"
    assert answer["state"] == {"a": 2}
    assert client.warnings == []


async def test_a_page_of_another_origin_shares_the_document(
    system: System, shared: Shared, package: Path, tmp_path: Path
):
    with browser(package, tmp_path / "profile") as pages, gateway(system, tmp_path, pages.origin) as url:
        shared.put({"title": "one", "n": 2**53 + 1})
        agui = shared.agui.replace(system.url, url)
        with pages.page() as page:
            page.do("ui", "open", url=f"{agui}?stamp=_v", thread="t")
            first = page.do("ui", "run")
            assert first["state"] == {"title": "one", "n": 2**53, "_v": 1}
            page.do("ui", "run", state=first["state"] | {"title": "two"})
            assert shared.state() == {"title": "two", "n": 2**53 + 1}
            page.do("ui", "follow")
            shared.patch({"op": "add", "path": "/more", "value": [None]})
            followed = page.do("ui", "until", version=3)["state"]
            assert followed == {"title": "two", "n": 2**53, "more": [None], "_v": 3}
            async with Refold(url) as refold:
                course = await follow_changes(
                    refold, page, namespace=system.namespace(), changes=100, seed=SEED
                )
            assert not course.faults, f"seed {SEED}: {course.faults[:3]}"


async def test_random_changes_of_every_kind_are_folded_as_they_are_served(system: System, client: Session):
    """`acceptance.agui` follows 10,000."""
    async with Refold(system.url) as refold:
        course = await follow_changes(refold, client, namespace=system.namespace(), changes=400, seed=SEED)
    assert not course.faults, f"seed {SEED}: {course.faults[:3]}"
    assert course.compared >= 3


def test_what_the_client_would_not_fold_comes_as_a_snapshot(shared: Shared, client: Session):
    shared.put({"list": ["s", "t", {}]})
    client.do("ui", "open", url=shared.agui, thread="t")
    client.do("ui", "follow", refold={"interval": 0})
    for operation, state in [
        ({"op": "move", "from": "/list/0", "path": "/list/1/x"}, {"list": ["t", {"x": "s"}]}),
        ({"op": "add", "path": "/constructor", "value": {}}, {"list": ["t", {"x": "s"}], "constructor": {}}),
        ({"op": "add", "path": "/constructor/prototype", "value": 1}, None),
        ({"op": "add", "path": "/__proto__", "value": {"a": None}}, None),
        ({"op": "remove", "path": "/constructor"}, None),
    ]:
        version = shared.patch(operation)
        folded = client.do("ui", "until", version=version)
        assert folded["state"] == shared.state()
        assert state in (None, folded["state"])
    assert client.warnings == []


def test_a_clone_edits_while_its_agent_follows(shared: Shared, client: Session):
    shared.put({"list": ["a"]})
    client.do("follower", "open", url=f"{shared.agui}?stamp=_v&interval=0", thread="t")
    client.do("follower", "follow")
    state = client.do("follower", "until", version=1)["state"]
    client.do("editor", "clone", of="follower")
    shared.patch({"op": "add", "path": "/list/0", "value": "others"})
    edited = client.do("editor", "run", state=state | {"list": ["A"]})
    assert edited["state"] == {"list": ["others", "A"], "_v": 3}
    assert client.do("follower", "until", version=3)["state"] == edited["state"]
    ended = client.do("follower", "end", abort=True)
    assert ended["state"] == edited["state"]
    assert client.warnings == []


def test_a_run_that_follows_ends_by_itself_with_its_position(shared: Shared, client: Session):
    shared.put({"a": 1})
    client.do("ui", "open", url=shared.agui, thread="t")
    client.do("ui", "follow", refold={"seconds": 0.1})
    ended = client.do("ui", "end")
    assert (ended["result"]["version"], ended["result"]["why"]) == (1, "seconds")
    assert ended["state"] == {"a": 1}


def test_the_example_prints_what_its_readme_shows(system: System, package: Path):
    shutil.copy(EXAMPLE / "trip.mjs", package)
    wanted = orjson.loads((EXAMPLE / "package.json").read_bytes())["dependencies"].items()
    assert wanted <= orjson.loads((PACKAGE / "package.json").read_bytes())["dependencies"].items()
    command = [node.program("node"), "trip.mjs", system.url]
    found = subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert f"```\n{found.stdout}```\n" in (EXAMPLE / "README.md").read_text()


def test_the_conformance_validator_finds_no_fault(shared: Shared):
    shared.put({"a": 1})
    validate = Path(sys.executable).with_name("ag-ui-validate")
    command = [
        str(validate),
        f"{shared.agui}?follow=true&seconds=0.2&stamp=_v",
        "--max-warnings",
        "0",
        "--json",
    ]
    with ThreadPoolExecutor() as threads:
        running = threads.submit(subprocess.run, command, capture_output=True, timeout=60, check=False)
        shared.patch({"op": "add", "path": "/b", "value": None})
        found = running.result()
    assert found.returncode == 0, found.stdout


@contextmanager
def gateway(system: System, folder: Path, origin: str) -> Iterator[str]:
    """Run another gateway of the system, which allows the pages of an origin."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    given = {"REFOLD_HTTP": f"127.0.0.1:{port}", "REFOLD_CORS_ORIGINS": origin}
    service = start_service("gateway", system.gateway_environment | given, folder / "gateway.log")
    try:
        wait_ready(url, {"gateway": service})
        yield url
    finally:
        service.stop()
