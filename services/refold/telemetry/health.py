"""Health in detail as health+json (draft-inadarei-api-health-check-06): checks, and a bound on their time.

The gateway answers `/health` with it; `refold.wiring.health` makes the checks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

from refold.core.errors import RefoldError
from refold.core.json_text import Json
from refold.core.timestamp import format_time
from refold.telemetry import redacted_text
from refold.telemetry.logging import get_logger

T = TypeVar("T")

Status = Literal["pass", "warn", "fail"]
STATUSES: Final[tuple[Status, ...]] = ("pass", "warn", "fail")
"""From the best to the worst."""

RUN_SECONDS: Final = 1.9
"""All checks together take no longer: an answer takes 2 s at most."""

CHECK_SECONDS: Final = 1.0
RESERVED_SECONDS: Final = 0.2
"""One check takes no longer than the first, and leaves the second to each check after it."""

ENDING_SECONDS: Final = 0.05
"""How long the end of a check that was cancelled is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measurement, called `component:measurement`; `component` distinguishes several of one name.

    `output` is the reason where the status is not `pass`. `limit` is what the value is compared with.
    """

    name: str
    status: Status = "pass"
    value: Json = None
    unit: str = ""
    limit: Json = None
    output: str = ""
    component: str = ""

    @classmethod
    def failed(cls, name: str, error: RefoldError, *, component: str = "") -> Finding:
        """Return that a check failed with an error."""
        return cls(name=name, status="fail", output=f"{error.code}: {error}", component=component)

    @classmethod
    def limited(
        cls, name: str, value: float, *, warn: float, fail: float | None = None, unit: str, output: str
    ) -> Finding:
        """Compare a value with the limits beyond which it is a warning or a failure; `output` is said then."""
        status: Status = "pass" if value <= warn else "warn" if fail is None or value <= fail else "fail"
        limit = fail if status == "fail" else warn
        said = "" if status == "pass" else output
        return cls(name=name, status=status, value=value, unit=unit, limit=limit, output=said)

    def view(self, *, now: str, since: str, seconds: float) -> dict[str, Json]:
        """Return its members in health+json; the last three are extensions."""
        members: dict[str, Json] = {
            "status": self.status,
            "componentId": self.component or None,
            "observedValue": self.value,
            "observedUnit": self.unit or None,
            "time": now,
            "output": redacted_text(self.output) or None,
            "limit": self.limit,
            "since": since,
            "seconds": round(seconds, 6),
        }
        return {name: value for name, value in members.items() if value is not None}


class Check(NamedTuple):
    """What is run, with the seconds that it may take. Where it fails or takes longer, that is the finding `name`."""

    name: str
    run: Callable[[float], Coroutine[Any, Any, Sequence[Finding]]]


class Report(NamedTuple):
    """The worst status of all findings, and the document."""

    status: Status
    view: dict[str, Json]


class Health:
    """Run checks one after another when asked, once for all who ask at the same time."""

    def __init__(
        self,
        checks: Sequence[Check] = (),
        *,
        version: str = "",
        service: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`clock` returns nanoseconds since 1970."""
        self._checks = checks
        self._facts: dict[str, Json] = {"releaseId": version, "serviceId": service}
        self._clock = clock
        self._running: asyncio.Task[Report] | None = None
        # By name and component: the status, and since when it is so.
        self._known: dict[tuple[str, str], tuple[Status, str]] = {}

    async def report(self) -> Report:
        """Return what the checks find; a run that has begun is shared."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="health")
        return await asyncio.shield(self._running)

    async def _run(self) -> Report:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RUN_SECONDS
        found: dict[str, list[Json]] = {}
        known: dict[tuple[str, str], tuple[Status, str]] = {}
        for number, check in enumerate(self._checks, 1):
            reserved = RESERVED_SECONDS * (len(self._checks) - number)
            started = time.perf_counter()
            findings = await _findings(check, min(CHECK_SECONDS, deadline - loop.time() - reserved))
            seconds = time.perf_counter() - started
            now = format_time(self._clock())
            for each in findings:
                key = each.name, each.component
                status, since = self._known.get(key, ("", ""))
                known[key] = each.status, since if status == each.status else now
                view = each.view(now=now, since=known[key][1], seconds=seconds)
                found.setdefault(each.name, []).append(view)
        self._known = known
        worst: Status = max((status for status, _ in known.values()), key=STATUSES.index, default="pass")
        return Report(worst, {"status": worst, **self._facts, "checks": found})


async def within(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Await work that may be slow to end when it is cancelled, as a query of a server that hangs is.

    Raises `TimeoutError`. What has not ended after two cancellations is left to itself.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        if (await asyncio.wait({task}, timeout=seconds))[0]:
            return task.result()
        raise TimeoutError
    finally:
        for _ in range(2):
            if task.cancel():
                await asyncio.wait({task}, timeout=ENDING_SECONDS)


async def _findings(check: Check, seconds: float) -> Sequence[Finding]:
    try:
        return await within(check.run(seconds), seconds)
    except TimeoutError:
        return [Finding(name=check.name, status="fail", output=f"no answer within {seconds:.1f} s")]
    except RefoldError as error:
        return [Finding.failed(check.name, error)]
    except Exception as error:  # noqa: BLE001 - a bug in one check hides nothing of what the others find.
        get_logger().exception("check_failed", check=check.name)
        return [Finding(name=check.name, status="fail", output=f"internal: {type(error).__name__}: {error}")]
