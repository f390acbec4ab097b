"""Profiles of running services, asked for over NATS, which lets only the administrator ask. Used by both services and
by `refold profile`.

The answer is a line of JSON, and after it the profile, compressed by zstd; a refusal is the line alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import zstandard

from refold.core import json_text
from refold.core.errors import Refused, ServiceUnavailable
from refold.log import PAYLOAD_BYTES_MAX, profile_subject
from refold.log.jetstream.client import Client
from refold.log.jetstream.protocol import message_frame
from refold.telemetry import instance
from refold.telemetry.logging import get_logger
from refold.telemetry.profiling import Format, Profile, Profiling, check_seconds
from refold.wiring.servers import administrator_url, connected

STATUSES: Final = {
    "profiling_off": 403,
    "profile_running": 409,
    "profile_too_large": 413,
}
"""Statuses of refusals, as of HTTP; that of all others is 422."""

ANSWER_SECONDS: Final = 30.0
"""The answer comes so long after the profile's end, at the latest."""

FIELDS: Final = frozenset({"seconds", "format"})
PROFILE_BYTES_MAX: Final = 64 * 1024 * 1024


@asynccontextmanager
async def answering_profiles(client: Client, service: str, *, is_on: bool) -> AsyncIterator[None]:
    """Answer requests for profiles within the block: those to this instance, and its share of those to any."""
    profiling, tasks = Profiling(is_on=is_on), set[asyncio.Task[None]]()

    def take(_: bytes, reply: bytes, __: bytes, body: bytes) -> None:
        # Without a reply subject it is no request; the acknowledgement of an event can be sent here.
        if reply:
            task = asyncio.create_task(_answer(client, profiling, reply, body), name="profile")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    subscriptions = (
        client.subscribe(profile_subject(service), take, queue=service),
        client.subscribe(profile_subject(service, instance()), take),
    )
    try:
        yield
    finally:
        for subscription in subscriptions:
            client.unsubscribe(subscription)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(client: Client, profiling: Profiling, reply: bytes, body: bytes) -> None:
    try:
        asked = json_text.object_in(body)
        if strange := asked.keys() - FIELDS:
            raise Refused(
                "bad_request", f"there is only {', '.join(sorted(FIELDS))}", field=min(strange)[:40]
            )
        profile = await profiling.run(asked.get("seconds"), asked.get("format"))
        answer = await asyncio.to_thread(_packed, profile)
        get_logger().info("profile_made", seconds=profile.seconds, samples=profile.samples)
    except Refused as refused:
        answer = _refusal(STATUSES.get(refused.reason, 422), refused.reason, str(refused))
    except Exception:  # noqa: BLE001 - whatever fails in the profiler, the service goes on and the caller is answered.
        get_logger().exception("profile_failed")
        answer = _refusal(500, "profile_failed", "the profiler failed; the service's log has the reason")
    client.write_if_connected(message_frame(reply, answer))


def _refusal(status: int, reason: str, detail: str) -> bytes:
    view = {"status": status, "reason": reason, "detail": detail, "instance": instance()}
    return json_text.dumps(view) + b"\n"


def _packed(profile: Profile) -> bytes:
    """Return the answer. Raises `Refused` where it is larger than a message."""
    facts = asdict(profile)
    body = facts.pop("body")
    line = json_text.dumps({"status": 200, "instance": instance(), **facts})
    answer = line + b"\n" + zstandard.compress(body)
    if len(answer) > PAYLOAD_BYTES_MAX or len(body) > PROFILE_BYTES_MAX:
        rule = f"the profile is larger than {PAYLOAD_BYTES_MAX} bytes; ask for fewer seconds"
        raise Refused("profile_too_large", rule, field="seconds", shape=f"{len(answer)} bytes")
    return answer


async def ask_for_profile(
    data: Path | None, service: str, instance: str | None, *, seconds: float, shape: Format
) -> tuple[dict[str, Any], bytes]:
    """Ask a running service for a profile, as the administrator; return how it was made, and the profile.

    Raises `ServiceUnavailable` where no such service runs, `Refused` where it refuses.
    """
    check_seconds(seconds)
    subject = profile_subject(service, instance)
    async with connected(administrator_url(data), "refold-administrator") as client:
        body = json_text.dumps({"seconds": seconds, "format": shape})
        reply = await client.request(subject, body, seconds=seconds + ANSWER_SECONDS)
    if reply.has_no_responders:
        which = f"{service} {instance}" if instance else service
        raise ServiceUnavailable(f"no {which} runs that could be profiled", missing=subject)
    line, _, packed = reply.payload.partition(b"\n")
    facts = json_text.object_in(line)
    if facts["status"] != 200:
        raise Refused(facts["reason"], f"{facts['instance']}: {facts['detail']}")
    return facts, zstandard.decompress(packed, PROFILE_BYTES_MAX)
