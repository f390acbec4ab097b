"""What a dashboard consists of, and the PromQL that its panels share. Used by the four dashboards and by make.py.

Expressions use the metrics as they are scraped, no recording rules, so that the dashboards work with any
configuration of Prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

OK, WARNING, BAD, QUIET = "green", "orange", "red", "text"

Query = tuple[str, str]
"""An expression and the legend of its series."""


@dataclass(frozen=True)
class Panel:
    """One panel; `about` says what is seen there, and what to do about it."""

    title: str
    about: str
    queries: Sequence[Query]
    _: KW_ONLY
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 0
    """0: the default of its kind."""
    alerts: Sequence[str] = ()
    """Alerts of infra/alerts.toml on this value: their thresholds are drawn, their runbooks linked."""
    related: Sequence[str] = ()
    """Alerts on another value, of which this one shows the cause or the extent: only linked."""
    more: str = ""
    """The name of the dashboard that says more."""
    states: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Text and colour of values that are states."""
    is_stacked: bool = False
    columns: Sequence[str] = ()
    """The labels that a table shows."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard."""

    name: str
    """The name of its file, and in its address."""
    title: str
    about: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Labels that can be chosen, each with the metric that has its values; `job` and `instance` are everywhere."""
    rows: Mapping[str, Sequence[Panel]]


API = 'route=~"/v1.*|/live/.*|/agui/.*"'
"""The routes that count for the alert on 5xx: not probes and metrics."""

BOUNDED = ('route=~"/v1/.*"', 'route!~".*/live"')
"""Routes whose duration is the gateway's: live streams last as long as their clients want."""

READS = ('method=~"GET|HEAD"', *BOUNDED)
WRITES = ('method=~"PUT|POST|PATCH|DELETE"', *BOUNDED)
NAMESPACE, SHARD, STORE = 'namespace=~"$namespace"', 'shard=~"$shard"', 'store=~"$store"'
REQUESTS = "refold_http_request_seconds"
ON_OFF = {1: ("yes", OK), 0: ("no", BAD)}


def of(metric: str, *matchers: str) -> str:
    """Select the series of the chosen instances."""
    chosen = ",".join(('job=~"$job"', 'instance=~"$instance"', *matchers))
    return f"{metric}{{{chosen}}}"


def total(metric: str, *matchers: str, by: str = "", over: str = "sum") -> str:
    """Aggregate a gauge."""
    return f"{over} by ({by}) ({of(metric, *matchers)})"


def rate(metric: str, *matchers: str, by: str = "", window: str = "$__rate_interval") -> str:
    """Add up a counter's increase in a second."""
    return f"sum by ({by}) (rate({of(metric, *matchers)}[{window}]))"


def increase(metric: str, *matchers: str, by: str = "") -> str:
    """Count what is rare over the window of the percentiles: as a rate it could not be read.

    Counters of errors appear with their first error, which `increase` does not count: a series that was not there in
    the window before counts with its whole value.
    """
    counter = of(metric, *matchers)
    before = f"present_over_time({counter}[$window] offset $window)"
    return f"sum by ({by}) ((increase({counter}[$window]) and {before}) or ({counter} unless {before}))"


def over(part: str, whole: str) -> str:
    """Divide one expression by another of the same labels."""
    return f"{part} / {whole}"


LOGGED = f"max(rate({of('refold_log_last_sequence')}[$__rate_interval]))"
"""Events logged in a second."""


def share(metric: str, part: Sequence[str], whole: Sequence[str] = (), by: str = "") -> str:
    """Divide a counter's rate in some series by that in all, over the window of the percentiles."""
    among = rate(metric, *whole, by=by, window="$window")
    # Without any such series the share is 0, not nothing.
    return over(f"({rate(metric, *whole, *part, by=by, window='$window')} or 0 * {among})", among)


def quantile(q: float, metric: str, *matchers: str, by: str = "") -> str:
    """Estimate a quantile of a histogram."""
    labels = f"le,{by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', *matchers, by=labels, window='$window')})"


def median_and_p99(metric: str, *matchers: str) -> Sequence[Query]:
    """Estimate the median and the 99th percentile."""
    return [(quantile(q, metric, *matchers), legend) for q, legend in ((0.5, "p50"), (0.99, "p99"))]


def mean_and_p99(metric: str, *matchers: str) -> Sequence[Query]:
    """Divide a histogram's sum by its count, and estimate the 99th percentile."""
    parts = (rate(f"{metric}_{part}", *matchers, window="$window") for part in ("sum", "count"))
    return [(over(*parts), "mean"), (quantile(0.99, metric, *matchers), "p99")]


def memory_share() -> str:
    """Divide the memory that a process takes by its limit."""
    return over(of("process_resident_memory_bytes"), of("refold_process_memory_limit_bytes"))


def rates(metric: str, *matchers: str, by: str) -> Sequence[Query]:
    """Add up a counter's increase in a second for each value of one label."""
    return [(rate(metric, *matchers, by=by), f"{{{{{by}}}}}")]


def increases(metric: str, *matchers: str, by: str) -> Sequence[Query]:
    """Count what is rare for each value of one label."""
    return [(increase(metric, *matchers, by=by), f"{{{{{by}}}}}")]


REQUESTS_IN_WORK = Panel(
    "Requests in work and waiting",
    "Requests wait when the gateway works on as many as it may: add a gateway, or find what is slow below.",
    [
        (total("refold_http_requests_working"), "in work"),
        (total("refold_http_requests_waiting"), "waiting"),
    ],
)
"""On the dashboards of reads and of writes: both wait for the same permits."""
