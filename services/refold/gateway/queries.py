"""The query parameters of each resource; any other is refused by name.

Used by the route modules.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from refold.core.fold import ID_CHARS_MAX
from refold.core.limits import ANSWER_ITEMS_MAX, NAME_CHARS_MAX
from refold.gateway.models import Limit, Sequence, Timeout, Version
from refold.gateway.problems import unknown_parameter

READ_SECONDS: Final = 5.0
"""How long a read waits for the projection when it does not say."""


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadQuery(_Query):
    """One document: at its head, or as of a version, a time or a sequence of the log."""

    version: Version | None = Field(None, description="This version.")
    at: str | None = Field(None, description="The last version at or before this TIME.")
    clock: Literal["recorded", "occurred"] | None = Field(
        None, description="By which times `at` goes: `recorded` unless said."
    )
    sequence: Sequence | None = Field(None, description="As of this sequence of the log.")
    path: str | None = Field(None, description="Only the value at this JSON Pointer.")
    min_version: Version | None = Field(None, description="Wait until this version is folded.")
    min_sequence: Sequence | None = Field(None, description="Wait until this sequence is folded.")
    timeout: Timeout = Field(READ_SECONDS, description="Seconds to wait for either; then 504.")


class HistoryQuery(_Query):
    """A part of a document's history."""

    after: Version | None = Field(None, description="Continue behind this version, in the order asked.")
    limit: Limit = ANSWER_ITEMS_MAX
    order: Literal["asc", "desc"] = "asc"
    path: str | None = Field(
        None, description="Only versions that touched this JSON Pointer, or something under or over it."
    )


class DiffQuery(_Query):
    """Two versions."""

    from_: Version = Field(alias="from")
    to: Version


class ListQuery(_Query):
    """A part of a namespace, at its head or as of a time or a sequence of the log."""

    prefix: str = Field("", max_length=NAME_CHARS_MAX, description="Only ids that begin so.")
    where: str | None = Field(
        None,
        max_length=10_000,
        description=(
            "A Postgres SQL/JSON path predicate over the states of now: `$.total > 10`. Documents that contain "
            "U+0000 are searched too; one other character stands for it there."
        ),
    )
    at: str | None = Field(None, description="As of this TIME: each document's last version at or before it.")
    clock: Literal["recorded", "occurred"] | None = Field(
        None, description="By which times `at` goes: `recorded` unless said."
    )
    sequence: Sequence | None = Field(None, description="As of this sequence of the log.")
    timeout: Timeout = Field(
        READ_SECONDS,
        description="Seconds to wait until `at` or `sequence` is folded; then 504.",
    )
    limit: Limit = ANSWER_ITEMS_MAX
    cursor: str | None = Field(
        None,
        max_length=1_000,
        description="Continue with the last answer's `next`; the other parameters stay the same.",
    )
    fields: Literal["id"] | None = Field(None, description="`id`: without the states.")
    absent: Literal["true"] | None = Field(
        None, description="With `fields=id`: also the documents that are absent now, marked so."
    )


class RejectionsQuery(_Query):
    """A part of a document's rejections."""

    after: Sequence | None = Field(None, description="Continue behind this sequence, newest first.")
    limit: Limit = ANSWER_ITEMS_MAX


class OutcomeQuery(_Query):
    """An event by its id."""

    id: str = Field(min_length=1, max_length=ID_CHARS_MAX, description="The event's id.")
    timeout: Timeout = Field(
        READ_SECONDS,
        description="Seconds to wait until what the log holds is folded.",
    )


def refuse_query(request: Request) -> None:
    """Refuse any query parameter."""
    for name in request.query_params:
        raise unknown_parameter(name)


async def no_query(request: Request) -> None:
    """Refuse any query parameter: a route's dependency (a plain function would be sent to a thread)."""
    refuse_query(request)


def read_query(request: Request) -> ReadQuery:
    """Read the parameters of the hot route, which FastAPI does not see."""
    given = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    try:
        return ReadQuery.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
