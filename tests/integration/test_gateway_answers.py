"""What the gateway answers is what its OpenAPI document says, member by member."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import BaseModel

from refold.gateway import models
from support.gateway import Twin, twin

JSON_PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture
async def gateway() -> AsyncIterator[Twin]:
    async with twin() as made:
        yield made


def conforms(response: httpx.Response, model: type[BaseModel]) -> None:
    """Hold an answer against its model: every member known, none missing."""
    sent = response.json()
    read = model.model_validate_json(response.content)
    assert read.model_dump(mode="json", exclude_unset=True) == sent


async def test_every_answer_is_as_described(gateway: Twin) -> None:
    conforms(await gateway.put("/v1/n/d", {"a": 1}, Idempotency_Key="k"), models.Outcome)
    conforms(await gateway.put("/v1/n/d", {"a": 1}, Idempotency_Key="k"), models.Outcome)
    conforms(await gateway.put("/v1/n/e", None, Refold_Wait="0"), models.Pending)
    patch = b'[{"op":"remove","path":"/b"}]'
    refused = await gateway.request("PATCH", "/v1/n/d", content=patch, headers=JSON_PATCH)
    conforms(refused, models.Problem)
    assert models.Problem.model_validate_json(refused.content).outcome is not None
    for path, model in (
        ("/v1/n/d/history", models.Changes),
        ("/v1/n/d/rejections", models.Rejections),
        ("/v1/n/d/outcomes?id=k", models.Outcome),
        ("/v1/n/d/outcomes/3", models.Outcome),
        ("/v1/n", models.Documents),
        ("/v1/n?fields=id", models.Documents),
        ("/v1", models.Namespaces),
        ("/status", models.SystemStatus),
        ("/healthz", models.Health),
        ("/readyz", models.Health),
    ):
        response = await gateway.request("GET", path)
        assert response.status_code == 200, path
        conforms(response, model)


async def test_every_problem_is_as_described(gateway: Twin) -> None:
    for path in ("/v1/n/d", "/v1/n/d?version=x", "/v1/n/d/diff?from=0&to=9", "/nowhere"):
        conforms(await gateway.request("GET", path), models.Problem)
