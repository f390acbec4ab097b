"""Fold 1, frozen: its limits, and how an event changes its document.

Registered in `refold.core.fold`. A recorded log in `tests/data/` has its outcomes, states and chains.
"""

from __future__ import annotations

from typing import Final

from refold.core.document import Document, Limits
from refold.core.errors import Refused
from refold.core.event import Event
from refold.core.fold.apply import apply_change
from refold.core.fold.decide import DETAIL_CHARS_MAX, decode
from refold.core.fold.rules import Changed, Rules, Window
from refold.core.fold.usual import fold_usual
from refold.core.patch import RFC_6902
from refold.core.stream import Record

__all__ = ["DETAIL_CHARS_MAX", "LIMITS", "RULES", "decode"]

LIMITS: Final = Limits(
    depth=128,
    operations=10_000,
    state_bytes=8 * 1024 * 1024,
    copy_bytes=16 * 1024 * 1024,
    shifts=256 * 1024 * 1024,
    event_bytes=1024 * 1024,
    headers_bytes=32 * 1024,
    text_depth=160,
    name_chars=128,
    id_chars=128,
    id_window_ids=1_000,
    id_window_events=10_000,
    occurred_ahead_nanoseconds=300 * 1_000_000_000,
)


def _change(document: Document, _record: Record, event: Event, rules: Rules, _window: Window) -> Changed:
    base = event.base
    if base is not None:
        _check_base(document, event, base)
    return Changed(apply_change(document, event.kind, event.value, event.operations, event.size, rules))


def _check_base(document: Document, event: Event, base: int) -> None:
    """Refuse a stale base: `reject` is the only strategy, and the default."""
    if base == document.version:
        return
    if base > document.version:
        raise Refused("base_in_future", f"the document is at version {document.version}", field="base")
    if event.on_conflict not in {None, "reject"}:
        rule = "fold 1 knows only reject for a stale base"
        raise Refused("strategy_unavailable", rule, field="on_conflict")
    raise Refused("conflict", f"version {base + 1} came after it", field="base", shape=str(base))


RULES: Final = Rules(
    number=1,
    limits=LIMITS,
    operations=RFC_6902,
    decode=decode,
    needs=None,
    change=_change,
    fold_usual=fold_usual,
)
