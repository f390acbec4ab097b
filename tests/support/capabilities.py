"""Tests that a store skips because of what it cannot do, listed at the end of the run."""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

import pytest

_PREFIX = "capability: "


def skip_without(capability: str) -> NoReturn:
    """Skip the test: the store does not have the capability that it is about."""
    pytest.skip(_PREFIX + capability)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the contract suite skipped, by store and capability."""
    skipped: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if "tests/contract/store/" in report.nodeid and _PREFIX in reason:
            store = report.nodeid.partition("[")[2].rstrip("]").split("-")[0]
            skipped[store, reason.partition(_PREFIX)[2]] += 1
    if skipped:
        terminalreporter.write_sep("-", "stores: tests skipped for a capability")
        for (store, capability), count in sorted(skipped.items()):
            terminalreporter.write_line(f"{store:24} {capability:32} {count:4}")
