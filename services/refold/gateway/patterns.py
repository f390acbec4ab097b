"""What texts look like, for the OpenAPI document: names, pointers, times, entity tags.

Used by the modules that describe; the core's own checks decide, and a test holds these against them.
"""

from __future__ import annotations

from typing import Final

from refold.core.limits import NAME_CHARS_MAX

NAME: Final = f"^[A-Za-z0-9_:=@+~-]{{1,{NAME_CHARS_MAX}}}$"
OWN_NAMESPACE: Final = f"^[A-Za-z0-9:=@+~-][A-Za-z0-9_:=@+~-]{{0,{NAME_CHARS_MAX - 1}}}$"
"""An author's: what begins with `_` is the system's."""

POINTER: Final = "^(/([^~/]|~[01])*)*$"

TAG: Final = '^"(0|[1-9][0-9]{0,18})"$'
TAGS: Final = r'^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*,?)$'

_DATE: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
_RFC3339: Final = f"{_DATE}[Tt]{_CLOCK}([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
RFC3339: Final = f"^{_RFC3339}$"
TIME: Final = rf"^({_DATE}|-?[0-9]{{1,12}}(\.[0-9]{{1,9}})?|{_RFC3339})$"
"""RFC 3339, a bare date, or unix seconds."""

PRINTED_TIME: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z$"
STRATEGY: Final = "^(reject|first_write_wins|last_write_wins|merge|custom:[!-~]+)$"
