"""Ask the projectors and gateways of a system what they are doing, on `refold.control`, and answer for a gateway.

Used by the gateway's composition, for `/readyz`, and by `refold.wiring.health`, for `/health`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Final, Literal, NotRequired

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from refold import __version__
from refold.core import json_text
from refold.core.errors import Refused, ServiceUnavailable
from refold.core.stream import PARTITIONS, parse_shard
from refold.log import CONTROL_SUBJECT, GATEWAY_SUBJECT
from refold.log.jetstream.client import Client
from refold.log.jetstream.protocol import message_frame
from refold.projector import FOLDING, Stage
from refold.telemetry import instance

QUIET_SECONDS: Final = 0.1
"""Once every partition has an owner, no answer for this long ends the wait for further instances."""

LACKING_SECONDS: Final = 0.5
"""While a partition lacks an owner, no answer for this long ends the wait of a probe."""

OWNERS_SECONDS: Final = 1.5
"""How long readiness waits for the owners of all partitions: less than a probe may take."""

OWNED_SECONDS: Final = 1.0
"""How long the answer that all partitions have owners holds: all instances answer each question of each gateway."""

ANSWERS_MAX: Final = 1_000


def _check_shard(text: str) -> str:
    try:
        parse_shard(text)
    except Refused as error:
        raise ValueError(str(error)) from error
    return text


class ProjectorAnswer(TypedDict):
    """What a projector says of itself; one of another version may lack what is not required."""

    service: Literal["projector"]
    instance: str
    version: str
    stage: str
    shard: Annotated[str, AfterValidator(_check_shard)]
    store: NotRequired[str]
    error: NotRequired[str]
    problem: NotRequired[str | None]
    commit_age_seconds: NotRequired[float | None]
    log_check_age_seconds: NotRequired[float | None]


class GatewayAnswer(TypedDict):
    """What a gateway says of itself."""

    service: Literal["gateway"]
    instance: str
    version: str


Answer = ProjectorAnswer | GatewayAnswer

_ANSWER: Final[TypeAdapter[Answer]] = TypeAdapter(Answer)


@contextmanager
def answering_status(client: Client) -> Iterator[None]:
    """Within the block, answer on `refold.control` with the instance of this gateway and its version."""
    body = json_text.dumps({"service": "gateway", "instance": instance(), "version": __version__})

    def take(_: bytes, reply: bytes, __: bytes, ___: bytes) -> None:
        if reply:
            client.write_if_connected(message_frame(reply, body))

    subscription = client.subscribe(GATEWAY_SUBJECT, take)
    try:
        yield
    finally:
        client.unsubscribe(subscription)


async def ask_instances(
    client: Client, stores: Sequence[str], seconds: float, *, is_quick: bool = False
) -> list[Answer]:
    """Ask every projector and gateway; return the answers once all partitions have owners, or time is up.

    With `is_quick`, only projectors are asked, the partitions of one store are enough, no further instance is waited
    for then, and the time is up earlier where answers stop coming; raises `ServiceUnavailable` if no projector runs.
    """
    found: list[Answer] = []
    owners = {store: [0] * PARTITIONS for store in stores}
    arrived, no_responders, inbox = asyncio.Event(), asyncio.Event(), client.new_inbox()

    def take(_: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        if not body:
            # The broker's answer where nothing is subscribed.
            no_responders.set()
        elif len(found) < ANSWERS_MAX and (answer := read_answer(body)) is not None:
            found.append(answer)
            for store, counts in owners.items():
                _count(counts, owners_of(store, projectors([answer])))
        arrived.set()

    subscription = client.subscribe(inbox, take)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for subject in (CONTROL_SUBJECT,) if is_quick else (CONTROL_SUBJECT, GATEWAY_SUBJECT):
                    client.write(message_frame(subject.encode(), b"", reply=inbox.encode()))
                while True:
                    if is_quick and no_responders.is_set():
                        raise ServiceUnavailable("no projector is running: start one with `refold projector`")
                    whole = [all(counts) for counts in owners.values()]
                    is_complete = all(whole)
                    if is_quick and any(whole):
                        break
                    is_over = is_quick and bool(projectors(found))
                    quiet_seconds = QUIET_SECONDS if is_complete else LACKING_SECONDS if is_over else None
                    async with asyncio.timeout(quiet_seconds):
                        await arrived.wait()
                        arrived.clear()
    finally:
        client.unsubscribe(subscription)
    return found


class OwnersCheck:
    """The readiness check of the owners: one question for all who ask at once, or soon after a good answer."""

    def __init__(self, client: Client, stores: Sequence[str]) -> None:
        self._client = client
        self._stores = stores
        self._asking: asyncio.Task[None] | None = None
        self._owned_until = 0.0

    async def check(self) -> None:
        """Raise `ServiceUnavailable` unless all partitions of one of the stores have owners without an error."""
        if asyncio.get_running_loop().time() < self._owned_until:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="owners")
            # Perhaps nothing waits for it any more.
            self._asking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        asked = projectors(await ask_instances(self._client, self._stores, OWNERS_SECONDS, is_quick=True))
        if not asked:
            raise ServiceUnavailable(f"no projector has answered within {OWNERS_SECONDS:g} s")
        problems = [owner_problem(store, asked) for store in self._stores]
        if all(problems):
            raise ServiceUnavailable("; ".join(dict.fromkeys(problems)))
        self._owned_until = asked_at + OWNED_SECONDS


def owner_problem(store: str, answers: Sequence[ProjectorAnswer]) -> str:
    """Return why a store, or the only one, is not folded into as a whole; empty where it is."""
    owners, lacking = owners_of(store, answers), owner_counts(store, answers).count(0)
    failing = [each for each in owners if each.get("error")]
    if not lacking and not failing:
        return ""
    about = f" of {store}" if store else ""
    others = [each for each in answers if each not in owners and (not store or each.get("store") == store)]
    for each in [*failing, *others]:
        if each.get("error") or each["stage"] not in {stage.value for stage in FOLDING}:
            return f"the projector{about} is {each['stage']}: {each.get('error', '')}"
    return f"{lacking} of {PARTITIONS} partitions{about} have no projector"


def read_answer(body: bytes) -> Answer | None:
    """Return a valid answer; None for another, which says nothing about an instance."""
    try:
        return _ANSWER.validate_json(body, strict=True)
    except ValidationError:
        return None


def projectors(answers: Sequence[Answer]) -> list[ProjectorAnswer]:
    """Return the answers of projectors."""
    return [each for each in answers if each["service"] == "projector"]


def owners_of(store: str, answers: Sequence[ProjectorAnswer]) -> list[ProjectorAnswer]:
    """Return the projectors that fold into a store, or into the only one, which has no name here."""
    working = [each for each in answers if each["stage"] == Stage.working.value]
    return [each for each in working if not store or each.get("store") == store]


def owner_counts(store: str, answers: Sequence[ProjectorAnswer]) -> list[int]:
    """Return for each partition how many projectors fold it into a store."""
    counts = [0] * PARTITIONS
    _count(counts, owners_of(store, answers))
    return counts


def _count(counts: list[int], owners: Sequence[ProjectorAnswer]) -> None:
    for each in owners:
        for partition in parse_shard(each["shard"]):
            counts[partition] += 1
