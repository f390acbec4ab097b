"""Profiles of this process, without ptrace: of CPU time by a thread that looks at the event loop's stack, of memory by
memray, which needs the extra `refold[profile]`.

Used by `refold.wiring.profiling`. For CPU time nothing is hooked, so a profile costs little, and nothing after.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from statistics import median
from tempfile import TemporaryDirectory
from types import CodeType
from typing import Any, Final, Literal, TypeAlias, get_args

from refold.core import json_text
from refold.core.diff import diff
from refold.core.errors import Refused

Format = Literal["text", "speedscope", "memray"]

SECONDS_MIN: Final = 1.0
SECONDS_MAX: Final = 60.0
INTERVAL_SECONDS: Final = 0.002
"""Time between two looks; a loop that is busy passes the interpreter on after this, too."""

DEPTH_MAX: Final = 100
"""Innermost functions of a stack that are kept."""

WAITING: Final = frozenset({asyncio.Runner.run.__code__, selectors.EpollSelector.select.__code__})
"""Innermost functions while an event loop waits: with uvloop, which is not in Python, and with asyncio."""

SHARE_MIN: Final = 0.005
"""Calls that took a smaller share are not in the text."""

TOP_MAX: Final = 15
"""Functions that the text lists by their own time."""

CALIBRATIONS: Final = 9
CALIBRATED_CALLS: Final = 100
"""Calls in one measurement of the overhead, about 5 ms, in which the event loop does nothing else."""

Stacks: TypeAlias = dict[tuple[CodeType, ...], float]
"""Seconds by stack, the innermost function first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile as a file, and how it was made; `overhead` is the share by which our own code took more CPU time.

    `samples` are those of the stack, or the allocations; `waiting` is the share of the samples in which the event loop
    waited, which are not in the profile.
    """

    body: bytes
    seconds: float
    samples: int
    waiting: float | None = None
    cpu_seconds: float
    overhead: float


def check_seconds(seconds: Any) -> None:
    """Raise `Refused` unless a profile can take so long."""
    if type(seconds) not in (int, float) or not SECONDS_MIN <= seconds <= SECONDS_MAX:
        rule = f"must be a number from {SECONDS_MIN:g} to {SECONDS_MAX:g}"
        raise Refused("bad_seconds", rule, field="seconds", shape=str(seconds)[:40])


class Profiling:
    """Makes one profile at a time."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._is_running = False

    async def run(self, seconds: Any, shape: Any) -> Profile:
        """Profile the calling thread, which is that of the event loop. Raises `Refused`."""
        if not self._is_on:
            raise Refused("profiling_off", "profiling is off; start the service with REFOLD_PROFILING=on")
        check_seconds(seconds)
        if shape not in get_args(Format):
            raise Refused("bad_format", f"must be one of {', '.join(get_args(Format))}", field="format")
        if self._is_running:
            raise Refused("profile_running", "a profile of this process is being made; ask again later")
        self._is_running = True
        try:
            return await (_memory(float(seconds)) if shape == "memray" else _profile(float(seconds), shape))
        finally:
            self._is_running = False


@dataclass(slots=True)
class _Sampler:
    stacks: Stacks = field(default_factory=lambda: defaultdict(float))
    samples: int = 0
    waits: int = 0
    """Samples in which the event loop waited, which are in no stack."""
    seconds: float = 0.0


async def _profile(seconds: float, shape: Format) -> Profile:
    overhead = await _overhead()
    cpu_seconds = time.process_time()
    with _sampled() as sampler:
        await asyncio.sleep(seconds)
    cpu_seconds = time.process_time() - cpu_seconds
    rendered = as_text if shape == "text" else as_speedscope
    return Profile(
        body=(await asyncio.to_thread(rendered, sampler.stacks)).encode(),
        seconds=sampler.seconds,
        samples=sampler.samples,
        waiting=sampler.waits / max(1, sampler.samples),
        cpu_seconds=cpu_seconds,
        overhead=overhead,
    )


async def _memory(seconds: float) -> Profile:
    """Record where the process's memory comes from: its peak, and what is left at the end, as a file of memray."""
    try:
        from memray import FileFormat, FileReader, Tracker  # noqa: PLC0415 - an extra.
    except ImportError as error:
        rule = "profiles of memory need an extra in the service: pip install 'refold[profile]'"
        raise Refused("memory_unavailable", rule) from error
    plain, cpu_seconds, began = _work_seconds(), time.process_time(), time.perf_counter()
    with TemporaryDirectory(prefix="refold-profile-") as folder:
        path = Path(folder, "memory.bin")
        # Not each allocation: it would be some MB a second.
        with Tracker(path, file_format=FileFormat.AGGREGATED_ALLOCATIONS):
            overhead = _work_seconds() / plain - 1
            await asyncio.sleep(seconds)
        return Profile(
            body=await asyncio.to_thread(path.read_bytes),
            seconds=time.perf_counter() - began,
            samples=FileReader(path).metadata.total_allocations,
            cpu_seconds=time.process_time() - cpu_seconds,
            overhead=max(0.0, overhead),
        )


@contextmanager
def _sampled() -> Iterator[_Sampler]:
    """Sample the calling thread within the block."""
    sampler, ended, before = _Sampler(), threading.Event(), sys.getswitchinterval()
    arguments = (sampler, threading.get_ident(), ended)
    thread = threading.Thread(target=_sample, args=arguments, name="profile", daemon=True)
    sys.setswitchinterval(INTERVAL_SECONDS)
    thread.start()
    try:
        yield sampler
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)


def _sample(sampler: _Sampler, thread: int, ended: threading.Event) -> None:
    """Add the time since the last look to the stack that is seen: a look may come late."""
    began = last = time.perf_counter()
    while not ended.wait(INTERVAL_SECONDS):
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, in spite of its name.
        codes: list[CodeType] = []
        while frame is not None and len(codes) < DEPTH_MAX:
            codes.append(frame.f_code)
            frame = frame.f_back
        now = time.perf_counter()
        if codes and codes[0] in WAITING:
            sampler.waits += 1
        else:
            sampler.stacks[tuple(codes)] += now - last
        sampler.samples, last = sampler.samples + 1, now
    sampler.seconds = last - began


async def _overhead() -> float:
    """Return by which share our own code takes more CPU time while it is sampled: the median of pairs."""
    shares = []
    for _ in range(CALIBRATIONS):
        plain = _work_seconds()
        with _sampled():
            shares.append(_work_seconds() / plain - 1)
        # Nothing waits for all of them.
        await asyncio.sleep(0)
    return max(0.0, median(shares))


_BEFORE: Final[Any] = {"items": [{"id": number, "tags": ["a", "b"]} for number in range(8)], "total": 1}
_AFTER: Final[Any] = {"items": [{"id": number, "tags": ["b"]} for number in range(1, 9)], "total": 2}


def _work_seconds() -> float:
    began = time.process_time()
    for _ in range(CALIBRATED_CALLS):
        diff(_BEFORE, _AFTER)
    return time.process_time() - began


# --- Formats ---------------------------------------------------------------------------------------------


def as_speedscope(stacks: Stacks) -> str:
    """Return a profile as https://www.speedscope.app reads it."""
    frames: dict[CodeType, int] = {}
    samples = [[frames.setdefault(code, len(frames)) for code in reversed(codes)] for codes in stacks]
    view = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "refold",
        "shared": {
            "frames": [
                {"name": code.co_qualname, "file": code.co_filename, "line": code.co_firstlineno}
                for code in frames
            ]
        },
        "profiles": [
            {
                "type": "sampled",
                "name": "event loop",
                "unit": "seconds",
                "startValue": 0,
                "endValue": sum(stacks.values()),
                "samples": samples,
                "weights": list(stacks.values()),
            }
        ],
    }
    return json_text.dumps(view).decode()


def as_text(stacks: Stacks) -> str:
    """Return a profile as the functions with most time of their own, and the tree of calls."""
    total = sum(stacks.values()) or 1.0
    own: dict[CodeType, float] = defaultdict(float)
    for codes, seconds in stacks.items():
        if codes:
            own[codes[0]] += seconds
    ranked = sorted(own.items(), key=lambda each: -each[1])[:TOP_MAX]
    lines = ["    own  function", *(f"{seconds / total:7.1%}  {_name(code)}" for code, seconds in ranked)]
    paths = [(codes[::-1], seconds) for codes, seconds in stacks.items()]
    return "\n".join([*lines, "", "  total  calls", *_tree(paths, 0, total)])


def _tree(paths: list[tuple[tuple[CodeType, ...], float]], depth: int, total: float) -> Iterator[str]:
    groups: dict[CodeType, list[tuple[tuple[CodeType, ...], float]]] = defaultdict(list)
    for codes, seconds in paths:
        if len(codes) > depth:
            groups[codes[depth]].append((codes, seconds))
    sums = {code: sum(seconds for _, seconds in group) for code, group in groups.items()}
    for code, seconds in sorted(sums.items(), key=lambda each: -each[1]):
        if seconds / total >= SHARE_MIN:
            yield f"{seconds / total:7.1%}  {' ' * depth}{_name(code)}"
            yield from _tree(groups[code], depth + 1, total)


def _name(code: CodeType) -> str:
    path = PurePath(code.co_filename)
    return f"{code.co_qualname}  {'/'.join(path.parts[-2:])}:{code.co_firstlineno}"
