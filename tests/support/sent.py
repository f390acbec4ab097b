"""What clients of several gateways were sent, and the reads that contradict it. For tests that kill processes.

A client of a gateway never reads a document behind what that gateway has sent; after a restart, never behind what any
client was sent before it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHOWN_CHARS_MAX = 400
FAULTS_SHOWN = 3
VIOLATIONS_MAX = 50


class Seen(NamedTuple):
    """A version of a document that a client was sent: by what, and when."""

    version: int
    sequence: int
    by: str
    at: float


class Carried(NamedTuple):
    """A read with a least sequence, to be compared with the history once that is known."""

    document: str
    min_sequence: int
    version: int
    by: str
    at: float


NOTHING = Seen(0, 0, "", 0.0)


@dataclass(slots=True)
class Sent:
    """Everything that clients were sent, by document; `by_gateway` is what each gateway may not read behind."""

    gateways: int
    everywhere: dict[str, Seen] = field(default_factory=dict)
    by_gateway: list[dict[str, Seen]] = field(default_factory=list)
    digests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.by_gateway = [{} for _ in range(self.gateways)]

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

    def fault(self, what: str) -> None:
        """Note a kill."""
        self.faults.append((self.now, what))

    def last_fault(self, *names: str) -> float:
        """Return the seconds since the last kill of one of these; infinite if there was none."""
        found = [at for at, what in self.faults if what.startswith(names)]
        return self.now - found[-1] if found else float("inf")

    def restarting(self, gateway: int) -> None:
        """Note that a gateway's process is about to start: it must know all that was sent before."""
        self.by_gateway[gateway] = dict(self.everywhere)

    def note(self, document: str, version: int, sequence: int, by: str, gateway: int | None = None) -> None:
        """Note a version that a client was sent; by a gateway, or without one."""
        seen = Seen(version, sequence, by, self.now)
        places = [self.everywhere] if gateway is None else [self.everywhere, self.by_gateway[gateway]]
        for place in places:
            if version > place.get(document, NOTHING).version:
                place[document] = seen

    def floor(self, gateway: int, document: str) -> Seen:
        """Return the newest version that a gateway may not read behind."""
        return self.by_gateway[gateway].get(document, NOTHING)

    def floors(self, gateway: int) -> Mapping[str, Seen]:
        """Return that of every document, as of now."""
        return dict(self.by_gateway[gateway])

    def check(self, document: str, version: int, floor: Seen, by: str) -> None:
        """Compare a read with what was sent before it began."""
        if version < floor.version:
            told = f"version {floor.version} (sequence {floor.sequence}) was sent by {floor.by}"
            self.violate("behind", f"{document}: {by} read version {version}; {told} at {floor.at:.3f} s")

    def check_digest(self, document: str, version: int, digest: bytes, by: str) -> None:
        """Compare a state with the one that was read before at this version."""
        known = self.digests.setdefault((document, version), digest)
        if known != digest:
            self.violate("contradicted", f"{document}: {by} read another state at version {version}")

    def expect(self, what: str, *, found: Any, expected: Any) -> None:
        """Note a difference."""
        if found != expected:
            shown = (str(found)[:SHOWN_CHARS_MAX], str(expected)[:SHOWN_CHARS_MAX])
            self.violate("differs", "{}: {}, expected {}".format(what, *shown))

    def violate(self, kind: str, what: str) -> None:
        """Note a violation with the last kills before it."""
        last = ", ".join(f"{name} at {at:.3f}" for at, name in self.faults[-FAULTS_SHOWN:])
        self.violations.append(f"{kind}: {what}; now {self.now:.3f} s, killed {last or 'none'}")
        print(f"VIOLATION  {self.violations[-1]}", flush=True)
        assert len(self.violations) < VIOLATIONS_MAX, "too many violations"
