"""The screen of `refold top`: lines of text with their styles, of what `refold.cli.top_numbers` returns.

Used by `refold.cli.top`. Pure: a screen of 80 columns and 24 rows holds every part; what there are many of is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

SERVICES_MAX: Final = 5
STORES_MAX: Final = 3
STATUS_OLD_SECONDS: Final = 3.0
"""A status that is older is shown with its age."""

KEYS: Final = "q quit  p pause  s sort"
SORTS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "rate": lambda each: (-(each["rate"] or 0.0), -each["events"]),
    "events": lambda each: -each["events"],
    "name": lambda each: each["namespace"],
}
"""Orders of the namespaces, in the order in which the key `s` chooses them."""

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_HEADER: Final = "bold"
_ALARM: Final = "red"
_BAD: Final = "yellow"
_RUNNING: Final = frozenset({"ready", "working", "alive"})


class Line(NamedTuple):
    """One line of the screen."""

    text: str
    style: str = ""


def screen(numbers: Mapping[str, Any], *, url: str, columns: int, rows: int, sort: str) -> list[Line]:
    """Return the lines, cut to the size of the screen."""
    above = [
        Line(
            f"refold top  {url}".ljust(columns - len(KEYS) - 1)[: columns - len(KEYS) - 1] + f" {KEYS}",
            _HEADER,
        ),
        *_services(numbers["services"]),
        *_rates(numbers["rates"]),
        *_lag(numbers),
        *_latencies(numbers["latencies"]),
    ]
    below = [
        *_stores(numbers["stores"]),
        _replicas(numbers["replicas"]),
        _alerts(numbers["alerts"]),
        _subscribers(numbers),
    ]
    namespaces = list(_namespaces(numbers["namespaces"], sort))
    middle = namespaces[: max(2, rows - len(above) - len(below))]
    return [Line(line.text[:columns], line.style) for line in [*above, *middle, *below][:rows]]


def sparkline(values: Iterable[float]) -> str:
    """Return a character for each value, as high as it is in proportion to the largest."""
    values = list(values)
    top = max(values, default=0.0)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1)) if top else 0] for value in values)


def _services(services: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    yield Line(
        f"{'service':<19}{'pid':>8}{'cpu':>7}{'memory':>10}  {'stage':<14}{'events or requests/s':>20}",
        _HEADER,
    )
    for each in services[:SERVICES_MAX]:
        head = f"{each['service'][:18]:<19}{each['pid'] or '-':>8}"
        if each["is_silent"]:
            yield Line(f"{head}{'-':>7}{'-':>10}  no answer for {each['silent_seconds']:.0f} s", _ALARM)
            continue
        memory = each["memory_bytes"]
        rate = each["requests"] if each["folded"] is None else each["folded"]
        cells = f"{_percent(each['cpu']):>7}{f'{memory / 2**20:,.0f} MiB' if memory else '-':>10}"
        style = "" if each["stage"] in _RUNNING else _BAD
        yield Line(f"{head}{cells}  {each['stage'][:14]:<14}{_rate(rate):>20}", style)
    if len(services) > SERVICES_MAX:
        yield Line(f"and {len(services) - SERVICES_MAX} more services")


def _rates(rates: Mapping[str, float | None]) -> Iterator[Line]:
    yield Line(f"{'per second':<16}" + "".join(f"{name:>12}" for name in rates), _HEADER)
    yield Line(f"{'':<16}" + "".join(f"{_rate(rate):>12}" for rate in rates.values()))


def _lag(numbers: Mapping[str, Any]) -> Iterator[Line]:
    log, lag = numbers["log"], numbers["lag"]
    if lag["events"] is None:
        yield Line("lag             unknown: the gateway has no status", _BAD)
    else:
        is_old = lag["age_seconds"] > STATUS_OLD_SECONDS
        age = f", {lag['age_seconds']:.0f} s ago" if is_old else ""
        text = f"{'lag':<16}{lag['events']:,} of {log['last_sequence']:,} events, {lag['seconds']:.3f} s{age}"
        yield Line(text, _BAD if is_old or lag["events"] else "")
    last = lag["last_minute_seconds"][-60:]
    yield Line(f"{'lag, last 60 s':<16}{sparkline(last)}")


def _latencies(latencies: Mapping[str, Mapping[str, float | None]]) -> Iterator[Line]:
    yield Line(f"{'latency':<16}" + "".join(f"{name:>12}" for name in latencies), _HEADER)
    for quantile in ("p50", "p99"):
        cells = (f"{_milliseconds(each[quantile]):>12}" for each in latencies.values())
        yield Line(f"{quantile:<16}{''.join(cells)}")


def _namespaces(namespaces: Sequence[Mapping[str, Any]], sort: str) -> Iterator[Line]:
    counts = f"{'events':>11}{'documents':>11}{'conflicts/min':>15}{'rejected/min':>14}"
    yield Line(f"{'namespace':<19}{'events/s':>10}{counts}", _HEADER)
    for each in sorted(namespaces, key=SORTS[sort]):
        counts = f"{each['events']:>11,}{each['documents']:>11,}"
        counts += f"{_rate(each['conflicts_last_minute']):>15}{_rate(each['rejected_last_minute']):>14}"
        yield Line(f"{each['namespace'][:18]:<19}{_rate(each['rate']):>10}{counts}")
    if not namespaces:
        yield Line("none")


def _stores(stores: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    for each in stores[:STORES_MAX]:
        problem = f", {each['problem']}" if each["problem"] else ""
        style = "" if each["breaker"] == "closed" and not each["problem"] else _BAD
        text = f"breaker {each['breaker']}, behind by {each['lag_events']:,} events{problem}"
        yield Line(f"{'store ' + each['store'][:9]:<16}{text}", style)


def _replicas(replicas: Mapping[str, float]) -> Line:
    found = [f"{servers:,.0f} {state}" for state, servers in replicas.items() if servers]
    style = _BAD if any(servers for state, servers in replicas.items() if state != "current") else ""
    return Line(f"{'log replicas':<16}{', '.join(found) or 'unknown'}", style)


def _alerts(alerts: Sequence[Mapping[str, str]] | None) -> Line:
    if alerts is None:
        return Line(f"{'alerts firing':<16}unknown: no alert engine answers")
    names = [f"{each['alert']} ({each['severity']})" for each in alerts]
    return Line(f"{'alerts firing':<16}{', '.join(names) or 'none'}", _ALARM if alerts else "")


def _subscribers(numbers: Mapping[str, Any]) -> Line:
    found = [f"{count:,.0f} {name}" for name, count in numbers["subscribers"].items()]
    connections = sum(numbers["connections"].values())
    return Line(f"{'subscribers':<16}{', '.join(found) or 'none'}; {connections:,.0f} connections")


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1_000:,.1f} ms"
