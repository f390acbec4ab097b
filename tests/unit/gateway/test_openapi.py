"""The OpenAPI document: whole, without dangling references, and true to what every route answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from refold.gateway.app import bare_app

METHODS = {"get", "put", "patch", "delete", "post"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return bare_app("1.2.3").openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, resource in document["paths"].items():
        assert resource.keys() <= METHODS, path
        for method, operation in resource.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_names_the_program_and_its_version(document: dict[str, Any]) -> None:
    assert (document["info"]["title"], document["info"]["version"]) == ("Refold", "1.2.3")


def test_every_reference_leads_to_a_schema(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][kind], reference


def test_every_operation_has_an_id_of_its_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids)) == 16
    assert all(name.isalpha() and name[0].islower() for name in ids)


def test_every_failure_is_described_as_a_problem(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        failures = {status: told for status, told in operation["responses"].items() if status >= "400"}
        assert {"500", "503"} <= failures.keys(), (path, method)
        for status, told in failures.items():
            assert list(told["content"]) == ["application/problem+json"], (path, method, status)


def test_every_name_in_a_path_is_a_parameter(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        given = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert named == given, (path, method)


def test_the_document_is_the_same_each_time() -> None:
    assert bare_app("1").openapi() == bare_app("1").openapi()
