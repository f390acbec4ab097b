"""A unit of processor time that travels: one strict parse and canonical dump of a fixed document, on one core.

A CPU figure divided by the unit of the same run can be compared between machines. The recipe and the document are fixed
here, so that no change of Refold moves the unit. It depends on the processor and on orjson's version; it does not see
how fast the Python interpreter is, so compare builds of the same Python version. Used by `bench.report`.
"""

from __future__ import annotations

import time
from hashlib import sha256
from statistics import median
from typing import Final

import orjson

UNIT_NAME: Final = "calibration unit, one parse and dump of 2 KB"
MEMBERS: Final = 34
CHUNK: Final = 500
"""Repetitions that are timed together."""

CALIBRATION_SECONDS: Final = 0.5
FAST_UNIT_MICROSECONDS: Final = 2.93
"""The unit on the fast machine of the goals: AMD EPYC with Zen 5 cores, orjson 3.13, Python 3.11."""

SLOW_FROM: Final = 1.7
"""A machine whose unit is so many times that of the fast one is compared with the goals of the slower machine."""


def document() -> bytes:
    """Return the document, canonical: 34 members of random hex, a number and a list, 2,048 bytes."""
    state: dict[str, object] = {
        f"m{number:02}": sha256(b"%d" % number).hexdigest()[:48] for number in range(MEMBERS)
    }
    state |= {"list": [1, 2.5, None, True], "number": 1_234_567}
    text = orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
    padding = "x" * (2_048 - len(text) - len(b',"text":""'))
    return orjson.dumps(state | {"text": padding}, option=orjson.OPT_SORT_KEYS)


def unit_microseconds(seconds: float = CALIBRATION_SECONDS) -> float:
    """Measure the unit: the median of chunks, in microseconds of this thread's processor time."""
    text, taken = document(), []
    until = time.perf_counter() + seconds
    while not taken or time.perf_counter() < until:
        begun = time.thread_time_ns()
        for _ in range(CHUNK):
            value = orjson.loads(text)
            if orjson.dumps(value) != text or orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != text:
                raise AssertionError("the document is canonical")
        taken.append((time.thread_time_ns() - begun) / CHUNK / 1_000)
    return median(taken)


def is_slow(unit: float) -> bool:
    """Return whether a machine with this unit is compared with the goals of the slower machine."""
    return unit > FAST_UNIT_MICROSECONDS * SLOW_FROM
