"""`schemas/log.json` lists the log events of the source, with their levels and fields, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from support.contracts import contract
from support.sources import modules

DESCRIBED = {each["event"]: each for each in contract("log.json")["events"]}
ALWAYS = set(contract("log.json")["always"])
OF_REQUEST = set(contract("log.json")["of_request"])
LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}


class Line(NamedTuple):
    """One place that logs; `is_open` if it has further fields that the source does not name.

    Without a level, it is that of another line.
    """

    event: str
    level: str | None
    fields: set[str]
    is_open: bool
    where: str


def lines() -> Iterator[Line]:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _is_logging(node):
                yield _called(node, module.at(node))
            elif isinstance(node, ast.Dict):
                line = _constants(node)
                if line.get("event") is not None and "level" in line:
                    # A line that is written past structlog.
                    yield Line(line["event"], line["level"], line.keys() - ALWAYS, False, module.at(node))


def _is_logging(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in LEVELS or not call.args:
        return False
    logger = call.func.value
    name = logger.func if isinstance(logger, ast.Call) else logger
    return isinstance(name, ast.Name) and name.id in {"get_logger", "log", "_log"}


def _called(call: ast.Call, where: str) -> Line:
    assert isinstance(call.func, ast.Attribute)
    [event] = call.args
    assert isinstance(event, ast.Constant), f"{where}: the name of an event is a constant"
    named = {keyword.arg for keyword in call.keywords if keyword.arg}
    has_traceback = "exc_info" in named or call.func.attr == "exception"
    fields = named - {"exc_info"} | ({"exception"} if has_traceback else set())
    return Line(event.value, LEVELS[call.func.attr], fields, len(named) < len(call.keywords), where)


def _constants(node: ast.Dict) -> dict[str, Any]:
    return {
        key.value: value.value if isinstance(value, ast.Constant) else None
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant)
    }


FOUND: dict[str, list[Line]] = {}
for _line in lines():
    FOUND.setdefault(_line.event, []).append(_line)


def test_every_event_of_the_source_is_described_and_no_other() -> None:
    assert sorted(FOUND) == sorted(DESCRIBED)


@pytest.mark.parametrize("event", FOUND)
def test_an_event_has_the_levels_and_fields_of_its_description(event: str) -> None:
    described, found = DESCRIBED[event], FOUND[event]
    where = [line.where for line in found]
    assert {line.level for line in found} in (set(described["levels"]), {None}), where
    fields = set[str]().union(*(line.fields for line in found))
    # What every line may have would be hidden by an event's own field.
    assert not fields & (ALWAYS | OF_REQUEST), where
    if any(line.is_open for line in found):
        assert fields <= set(described["fields"]), where
    else:
        assert fields == set(described["fields"]), where
