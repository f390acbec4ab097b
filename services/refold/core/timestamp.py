"""Times: int64 nanoseconds since 1970 inside, RFC 3339 at the edges.

`parse_rfc3339` is how the fold reads `occurred_at`; `parse_time` reads the wider TIME of commands and requests.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Final

from refold.core.errors import Refused

TIME_MIN_NANOSECONDS: Final = -(2**63)
TIME_MAX_NANOSECONDS: Final = 2**63 - 1

_TIME: Final = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:([Tt ])(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(?:[Zz]|([+-])(\d{2}):(\d{2})))?",
    re.ASCII,
)
_UNIX: Final = re.compile(r"-?\d{1,16}(\.\d{1,9})?", re.ASCII)
_AGO: Final = re.compile(r"-(\d{1,9})([smhdw])|(\d{1,9})([smhdw]) ago", re.ASCII)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_SECOND: Final = 1_000_000_000
_SECONDS_CACHED_MAX: Final = 1_024
_MILLISECONDS_DIGITS: Final = 11
"""Seconds with so many digits would be after the year 2262."""

_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d:\d\d:\d\d) GMT", re.ASCII
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RETRY_AFTER_DIGITS_MAX: Final = 9
"""Thirty years; more digits are cut off."""

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_rfc3339(text: str, field: str = "occurred_at") -> int:
    """Read nanoseconds from RFC 3339 with an offset, at most nine fractional digits, no leap second."""
    found = _TIME.fullmatch(text)
    if found is None or found[7] is None or found[4] == " ":
        raise _refused(field, text, "RFC 3339 with an offset and at most nine fractional digits")
    return _nanoseconds(found, text, field)


def _nanoseconds(found: re.Match[str], text: str, field: str) -> int:
    numbers = [int(digits or 0) for digits in found.group(1, 2, 3, 5, 6, 7, 10, 11)]
    year, month, day, hour, minute, second, offset_hour, offset_minute = numbers
    if hour > 23 or minute > 59 or second > 59 or offset_hour > 23 or offset_minute > 59:
        raise _refused(field, text, "within 23:59:59, its offset too")
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        raise _refused(field, text, "on a day that the calendar has") from None
    offset_seconds = (offset_hour * 60 + offset_minute) * (-60 if found[9] == "-" else 60)
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset_seconds
    return _checked(seconds * _SECOND + int((found[8] or "").ljust(9, "0")), text, field)


def parse_time(text: str, field: str = "at", *, now: int | None = None) -> int:
    """Read nanoseconds from any form of TIME.

    RFC 3339 (a space for the `T`; seconds may be omitted), a bare date (midnight UTC), unix seconds (fractions allowed)
    or milliseconds (eleven digits and more); with `now` also `now`, `-5m` and `5m ago`, with the
    units s, m, h, d and w.
    """
    if found := _TIME.fullmatch(text):
        return _nanoseconds(found, text, field)
    if _UNIX.fullmatch(text):
        is_milliseconds = len(text.partition(".")[0].lstrip("-")) >= _MILLISECONDS_DIGITS
        return _checked(int(Decimal(text) * (_SECOND // 1_000 if is_milliseconds else _SECOND)), text, field)
    if now is None:
        raise _refused(field, text, "RFC 3339 with an offset, a date, or unix seconds or milliseconds")
    if text == "now":
        return now
    if found := _AGO.fullmatch(text):
        count, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        return _checked(now - int(count) * _UNIT_SECONDS[unit] * _SECOND, text, field)
    raise _refused(field, text, "RFC 3339, a date, now, -5m, '5m ago', or unix seconds or milliseconds")


def parse_retry_after(text: str, *, now: float) -> float:
    """Return the seconds that a header `Retry-After` (RFC 9110) asks for, a number or a date; 0 where it is neither.

    `now` is in seconds since 1970.
    """
    if text.isascii() and text.isdigit():
        return float(text[:_RETRY_AFTER_DIGITS_MAX])
    found = _HTTP_DATE.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        return 0.0
    try:
        nanoseconds = parse_rfc3339(f"{found[3]}-{_MONTHS.index(found[2]) + 1:02}-{found[1]}T{found[4]}Z")
    except Refused:
        return 0.0
    return max(0.0, nanoseconds / _SECOND - now)


def is_relative(text: str) -> bool:
    """Return whether a time depends on when it is read."""
    return text == "now" or _AGO.fullmatch(text) is not None


def format_time(nanoseconds: int) -> str:
    """Write RFC 3339 in UTC with nine digits."""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    return f"{_second_text(seconds)}.{fraction:09}Z"


@lru_cache(_SECONDS_CACHED_MAX)
def _second_text(seconds: int) -> str:
    """Write a time without its fraction; most times that are written share their second (0.3 instead of 1.1 us)."""
    days, seconds = divmod(seconds, 86_400)
    day = date.fromordinal(_EPOCH_DAY + days).isoformat()
    return f"{day}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _checked(nanoseconds: int, text: str, field: str) -> int:
    if not TIME_MIN_NANOSECONDS <= nanoseconds <= TIME_MAX_NANOSECONDS:
        raise _refused(field, text, "within int64 nanoseconds (years 1677 to 2262)")
    return nanoseconds


def _refused(field: str, text: str, rule: str) -> Refused:
    return Refused("bad_time", f"a time must be {rule}", field=field, shape=repr(text[:64]))
