"""A projection that a program of format 1 made (`tests/data/format1.sql`), and the log that it was made from.

The file is a dump (`pg_dump --inserts`) of the last program before format 2. One row has a state that is older than its
row, two documents have pages and a journal, one is absent, one event was rejected, and there is a view.
"""

from __future__ import annotations

from pathlib import Path

from refold.core import json_text
from refold.core.fold import RULES
from refold.core.stream import Record, Route
from refold.log.memory import MemoryLog

DUMP = Path(__file__).parents[1] / "data" / "format1.sql"
EVENTS = 300
_START = 1_700_000_000_000_000_000
_SECOND = 1_000_000_000


def log_of_format_1() -> MemoryLog:
    """Return the log, whose times are fixed."""
    log = MemoryLog("log-1", rules=RULES[1])
    bodies = [(f"d{number % 2}", {"merge": {"n": number}, "id": f"e{number}"}) for number in range(EVENTS)]
    bodies += [("gone", {"put": "\u0000"}), ("gone", {"delete": True}), ("bad", {"base": 7, "put": 1})]
    bodies += [("lags", {"merge": {"n": number, "text": "x" * 50}}) for number in range(3)]
    genesis = log._records[0]
    log._records = [genesis._replace(time=_START)]
    for sequence, (document, event) in enumerate(bodies, 2):
        subject = Route.of("n", document).subject
        time = _START + sequence * _SECOND
        log._records.append(Record(sequence, time, subject, b"", json_text.dumps(event)))
    return log
