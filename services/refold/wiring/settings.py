"""The settings in force, from `REFOLD_*` variables and flags: the only place that reads the environment.

Made once by a command (`load`), then handed to whatever is wired.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from refold.core.errors import Refused
from refold.embedded import DEFAULT_DATA
from refold.gateway import (
    BODY_SECONDS,
    IDLE_SECONDS,
    LIVE_CONNECTIONS_MAX,
    LIVE_PER_CLIENT_MAX,
    LIVE_SECONDS_MAX,
    WAITING_MAX,
    WAITING_PER_CLIENT_MAX,
)
from refold.projector import COMMIT_INTERVAL_SECONDS
from refold.store import STATE_LAG_BYTES, STATE_LAG_SECONDS
from refold.store.layers import COMPRESSED_BYTES_MIN, COMPRESSION_PATTERN, COMPRESSION_RULE
from refold.store.layers.cached import CACHE_STATES_BYTES
from refold.telemetry import HIDDEN, redacted_text
from refold.telemetry.metrics import NAMESPACES_MAX
from refold.wiring.store_url import check_address, read_stores

PREFIX: Final = "REFOLD_"
_MEBIBYTE: Final = 1024 * 1024


def split_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, an IPv6 host in brackets; port 0 = any free one."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


def parts_of(text: str | None) -> tuple[str, ...]:
    """Return the parts of a list with commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _must(rule: str, pattern: str, *, is_list: bool = False) -> AfterValidator:
    """Refuse text, secret or not, or a part of a list with commas, that the pattern does not match as a whole."""

    def check(value: str | SecretStr) -> str | SecretStr:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not all(re.fullmatch(pattern, part) for part in (parts_of(text) if is_list else (text,))):
            raise ValueError(f"must {rule}")
        return value

    return AfterValidator(check)


_Address = Annotated[str, AfterValidator(_address)]
_NatsUrl = Annotated[
    SecretStr, _must("begin with nats:// or tls://", r"(nats|tls)://[^,]*(,(nats|tls)://[^,]*)*")
]


def _postgres_url(value: SecretStr) -> SecretStr:
    check_address(value.get_secret_value(), "postgres")
    return value


_PostgresUrl = Annotated[
    SecretStr,
    _must("begin with postgres:// or postgresql://", r"postgres(ql)?://.*"),
    AfterValidator(_postgres_url),
]
_Key = Annotated[
    SecretStr, _must("have 32 to 512 characters, such as `openssl rand -hex 32` prints", r".{32,512}")
]


def _joined(value: object) -> object:
    """Return the text of a flag that is given several times; an empty list is no flag."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _readable_stores(value: SecretStr) -> SecretStr:
    read_stores(value.get_secret_value())
    return value


_Stores = Annotated[SecretStr, BeforeValidator(_joined), AfterValidator(_readable_stores)]
_Schema = Annotated[
    str, _must("be 1 to 48 of a-z 0-9 _, not beginning with a digit", "[a-z_][a-z0-9_]{0,47}")
]
_Hosts = Annotated[
    str,
    _must(
        "be host names without ports, such as state.example.org, *.example.org or *",
        r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
        is_list=True,
    ),
]
_Origins = Annotated[
    str,
    _must(
        "be origins without a path, such as https://app.example.org, or *",
        r"\*|[a-z][a-z0-9+.-]*://[^/\s,@?#]+",
        is_list=True,
    ),
]


_Targets = Annotated[
    str,
    _must(
        "be services with their addresses, such as gateway=http://10.0.0.1:8080,projector=http://10.0.0.2:8081",
        r"[a-z][a-z0-9-]*=https?://[^/\s,@?#]+",
        is_list=True,
    ),
]
_Namespaces = Annotated[
    str, _must("be namespaces, such as acme,staff", r"[A-Za-z0-9_:=@+~-]{1,128}", is_list=True)
]
_OtlpUrl = Annotated[
    str,
    _must("begin with http:// or https://, such as http://127.0.0.1:4318", r"https?://[^/\s?#]+(/[^\s?#]*)?"),
]
_Compression = Annotated[str, _must(COMPRESSION_RULE, COMPRESSION_PATTERN)]


class Settings(BaseSettings):
    """Everything that can be set. The variable of `nats_url` is `REFOLD_NATS_URL`, its flag `--nats-url`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    url: str | None = Field(None, pattern=r"^https?://")
    """Where commands find a running gateway."""
    data: Path = DEFAULT_DATA
    """Data folder of `refold up`."""
    http: _Address = "127.0.0.1:8080"
    """Where the gateway listens, HOST:PORT; port 0 = any free one, which `refold up` keeps while it is free."""
    probe: _Address = "127.0.0.1:0"
    """Where the projector, alerts and usage answer probes and metrics, HOST:PORT; port 0 as with `http`."""
    nats_port: int = Field(4222, ge=0, le=65_535)
    """Port of the embedded NATS; 0 = any free one, which is kept between starts while it is free."""
    postgres_port: int = Field(0, ge=0, le=65_535)
    """Port of the embedded PostgreSQL; 0 = any free one, which is kept between starts while it is free."""
    durability: Literal["fsync", "os"] = "fsync"
    """Embedded log: `fsync` survives power loss, `os` is for throw-away data."""
    log_key: _Key | None = None
    """Key of the embedded log, which NATS encrypts from its first event on; without it, the log cannot be read."""
    log_key_before: _Key | None = None
    """The key that `log_key` replaces at the next start."""
    keys: Path | None = None
    """File of the keys that stores are encrypted with, which only its owner can read (mode 0600)."""
    keys_command: SecretStr | None = None
    """Command that prints the keys, without a shell, where there is no file: run once, at start."""
    encrypt: Literal["none", "history", "all"] | None = None
    """`history` (default with keys): all but PostgreSQL's states; `all`: those too; `none`: nothing from now on."""
    nats_url: _NatsUrl | None = None
    """NATS, as the service's own user; a cluster's servers with commas between them."""
    nats_admin_url: _NatsUrl | None = None
    """NATS, as the administrator: creates the log at start if there is none."""
    nats_reply_url: _NatsUrl | None = None
    """NATS, as a user for the projector, that can only send outcomes and changes."""
    nats_replicas: int = Field(1, ge=1, le=5)
    """Servers of a NATS cluster that store the log, if it is created at start."""
    stores: _Stores | None = None
    """Stores, in the order of preference for reads: addresses with spaces between them; default: postgres_url."""
    projector_store: str | None = None
    """The one of several stores that a projector folds into: postgres, files, redis; a second one is redis-2."""
    postgres_url: _PostgresUrl | None = None
    """Postgres, with all rights on the schema: the one store where `stores` is not set."""
    postgres_schema: _Schema = "refold"
    """Schema that holds the projection."""
    cache_bytes_max: int = Field(256 * _MEBIBYTE, ge=_MEBIBYTE)
    """Documents that a projector keeps in memory, with their events that are in no page yet, in bytes."""
    cache_states_bytes: int = Field(CACHE_STATES_BYTES, ge=0)
    """States that a gateway keeps in memory, by document and version, in bytes; 0 = none."""
    compression: _Compression = "zstd:1"
    """How stores compress what they write: none, snappy, gzip:1 to gzip:9, zstd:1 to zstd:19. What is there stays."""
    compression_bytes_min: int = Field(COMPRESSED_BYTES_MIN, ge=0)
    """Smaller values are stored as they are, where their namespace has no dictionary (`refold store train`)."""
    shard: str = Field("0-63", pattern=r"^\d{1,2}-\d{1,2}$")
    """The partitions that a projector folds, as FIRST-LAST; all documents are in one of 64."""
    commit_events_max: int = Field(50_000, ge=1, le=1_000_000)
    """Events in one commit, at most; a commit is as large as the backlog, within this and its memory."""
    commit_interval_seconds: float = Field(COMMIT_INTERVAL_SECONDS, ge=0, le=10)
    """Time between commits, longer under load; a commit begins at once after a pause and when a reader waits."""
    state_lag_bytes: int = Field(STATE_LAG_BYTES, ge=0)
    """A larger document is not written to its row with every commit; reads are exact all the same."""
    state_lag_seconds: float = Field(STATE_LAG_SECONDS, ge=0, le=3_600)
    """How long the row of such a document may hold an older state, which only SQL sees; 0 = never."""
    wait_seconds: float = Field(5.0, ge=0, le=300)
    """How long a write waits for its outcome when it does not say."""
    stale_reads: bool = False
    """Answer reads while a starting gateway waits for the projection, marked by `Refold-Lag-Events`."""
    ready_lag_seconds: float = Field(5.0, gt=0, le=3_600)
    """A gateway is not ready while the projection is further behind the log than this."""
    http_idle_seconds: float = Field(IDLE_SECONDS, ge=0.1, le=3_600)
    """A connection on which no request's headers are complete after this is closed."""
    http_body_seconds: float = Field(BODY_SECONDS, ge=0.1, le=3_600)
    """A request whose body makes no progress for so long is ended: 408."""
    http_waiting_max: int = Field(WAITING_MAX, ge=1, le=1_000_000)
    """Requests that may wait at a time, for what is not folded yet or for their body; more get 503."""
    http_waiting_per_client_max: int = Field(WAITING_PER_CLIENT_MAX, ge=1, le=1_000_000)
    """The same from one address; more get 429. Clients behind one proxy share an address."""
    live_connections_max: int = Field(LIVE_CONNECTIONS_MAX, ge=1, le=100_000)
    """Live connections of one gateway; it takes fewer where its limit of open files is lower."""
    live_per_client_max: int = Field(LIVE_PER_CLIENT_MAX, ge=1, le=100_000)
    """The same from one address. Clients behind one proxy share an address."""
    live_seconds_max: float = Field(LIVE_SECONDS_MAX, ge=1, le=86_400)
    """A live connection ends after this, give or take a tenth; its client returns, to any gateway."""
    http_hosts: _Hosts | None = None
    """Host names served besides loopback names and IP addresses, with commas; `*.x.org`: names below it; `*`: any."""
    cors_origins: _Origins | None = None
    """Origins whose web pages may use the gateway, such as https://app.example.org, with commas; `*`: any."""
    statement_timeout_seconds: float = Field(10.0, gt=0, le=3_600)
    """How long a reading statement may take in PostgreSQL."""
    alerts: Path | None = None
    """File of the rules and notifiers of alerts; if it is set, `refold up` runs the alert engine."""
    alerts_targets: _Targets | None = None
    """Services that `refold alerts` asks, as SERVICE=URL with commas; by default those of the data folder's system."""
    alerts_url: str | None = Field(None, pattern=r"^https?://[^/\s@?#]+$")
    """The alert engine, such as http://127.0.0.1:8082, which `/health` asks; set by `refold up` with `alerts`."""
    usage: bool = False
    """Run the usage service as a part of `refold up`: it counts events by hour, actor, type and section."""
    usage_totals: _Namespaces | None = None
    """Namespaces that are counted without actors and sessions, with commas; a change counts everything again."""
    otlp_url: _OtlpUrl | None = None
    """Where traces are sent by OTLP over HTTP, such as http://127.0.0.1:4318; needs the extra `refold[otel]`."""
    trace_ratio: float = Field(0.01, ge=0, le=1)
    """Share of the requests that are traced of those that bring no trace context; others are as their callers say."""
    metric_namespaces_max: int = Field(NAMESPACES_MAX, ge=1, le=1_000)
    """Namespaces that a process names in its metrics, the first that it meets; the others share the label `_other`."""
    nats_monitor: str | None = Field(None, pattern=r"^http://[^/\s@?#]+:\d+$")
    """NATS' monitoring, such as http://127.0.0.1:8222, which knows how large the log may become; set by `refold up`."""
    profiling: bool = False
    """Let the administrator make CPU profiles of a running service (`refold profile`)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""

    _flags: frozenset[str] = frozenset()

    def __init__(self, **flags: Any) -> None:
        """Validate flags before variables before defaults."""
        super().__init__(**flags)
        # A command may hand on a variable as a flag.
        self._flags = frozenset(
            name for name, value in flags.items() if str(value) != os.environ.get(_variable(name))
        )

    @property
    def names_servers(self) -> bool:
        """Return whether the servers are reached by their addresses, and not by a data folder that is named."""
        return self.nats_url is not None and self.reaches_stores

    @property
    def reaches_stores(self) -> bool:
        """Return whether the stores are reached by their addresses, and not by a data folder that is named."""
        has_stores = not (self.stores is None and self.postgres_url is None)
        return "data" not in self.model_fields_set and has_stores

    def is_flag(self, name: str) -> bool:
        """Return whether a setting was given on the command line."""
        return name in self._flags

    def required(self, name: str) -> str:
        """Return an address that a service cannot do without, its secret in the clear; refuse its absence."""
        secret: SecretStr | None = getattr(self, name)
        if secret is None:
            raise Refused("bad_setting", "must be set", field=_variable(name), shape="nothing")
        return secret.get_secret_value()


def load(**flags: Any) -> Settings:
    """Read the settings in force: flags (those not None) before variables before defaults."""
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = str(fault["loc"][0]) if fault["loc"] else ""
        source = flag_of(name) if name in given else _variable(name)
        message = fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
        message = message.partition(", unable to")[0]
        raise Refused("bad_setting", message, field=source) from error


def flag_of(name: str) -> str:
    """Return the flag of a setting; the one of `stores` is given once for each."""
    return "--store" if name == "stores" else f"--{name.replace('_', '-')}"


def handed_on(settings: Settings, **changes: object) -> dict[str, object]:
    """Return these settings as flags of `load`, secrets in the clear; `changes` go before them, None takes out."""
    ours = {name: getattr(settings, name) for name in Settings.model_fields} | changes
    return {name: _plain(value) for name, value in ours.items() if value is not None}


def environment_without() -> dict[str, str]:
    """Return the environment without any setting of ours: for a child that is handed them otherwise."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}


def described(settings: Settings) -> list[dict[str, str]]:
    """Return `setting`, `value` (secrets hidden), `from` (where it comes from) and `description` of every setting."""
    return [
        {
            "setting": name,
            "value": _shown(getattr(settings, name)),
            "from": _source(settings, name),
            "description": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]


def unknown_variables() -> dict[str, str]:
    """Return the `REFOLD_*` variables that are no settings, each with the most similar one, empty if there is none."""
    known = {_variable(name) for name in Settings.model_fields}
    unknown = (name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    return {name: _nearest(name.upper().removeprefix(PREFIX).lower()) for name in sorted(unknown)}


def _nearest(name: str) -> str:
    similar = get_close_matches(name, Settings.model_fields, n=1)
    return _variable(similar[0]) if similar else ""


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return redacted_text(text) if "://" in text else HIDDEN
    return "" if value is None else redacted_text(str(value))


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def _source(settings: Settings, name: str) -> str:
    if name not in settings.model_fields_set:
        return "default"
    return "command line" if settings.is_flag(name) else _variable(name)


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"
