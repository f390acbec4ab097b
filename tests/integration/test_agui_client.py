"""The official AG-UI client, unmodified, on the running system: in Node and in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from support import node
from support.agui_client import PACKAGE, Session, session
from support.system import System

JSON = {"Content-Type": "application/json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.installed(PACKAGE, tmp_path_factory.mktemp("agui") / "package")


@pytest.fixture
def client(package: Path) -> Iterator[Session]:
    with session(package) as running:
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
    assert [told["name"] for told in answer["custom"]] == ["refold.rejected"]
    assert answer["custom"][0]["value"]["reason"] == "conflict"
    assert answer["state"] == {"a": 2}
    assert client.warnings == []
