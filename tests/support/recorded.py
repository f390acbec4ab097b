"""Recorded logs (`tests/data/`): read back as records, with what their fold made of them when they were recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refold.core.stream import Record

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, kw_only=True)
class RecordedLog:
    """A log, and the outcomes, documents and chains that every program must produce."""

    log_id: str
    records: list[Record]
    outcomes: list[Any]
    documents: dict[str, Any]
    chains: dict[str, str]


def recorded_log(path: Path) -> RecordedLog:
    """Read a file that `record_log.py` beside it has written."""
    first, *events, last = (json.loads(line) for line in path.read_text().splitlines())
    records = [
        Record(sequence, int(it["time"]), *(_bytes(it[name]) for name in ("subject", "headers", "body")))
        for sequence, it in enumerate(events, 1)
    ]
    outcomes = [it["outcome"] for it in events]
    return RecordedLog(log_id=first["log_id"], records=records, outcomes=outcomes, **last)


def shortened(text: str | None) -> Any:
    """Replace a long text by its digest."""
    if text is None or len(text) <= 2_000:
        return text
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}


def _bytes(text: Any) -> bytes:
    whole = text if isinstance(text, str) else "".join(part * times for part, times in text)
    return whole.encode("latin-1")
