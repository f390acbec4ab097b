"""The settings in force, from `REFOLD_*` variables and flags: the only place that reads the environment.

Made once by a command (`load`), then handed to whatever is wired.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from refold.core.errors import Refused
from refold.gateway import BODY_SECONDS, IDLE_SECONDS, WAITING_MAX, WAITING_PER_CLIENT_MAX
from refold.store import STATE_LAG_BYTES, STATE_LAG_SECONDS
from refold.telemetry import redacted_text

PREFIX: Final = "REFOLD_"
_MEBIBYTE: Final = 1024 * 1024
_HOST: Final = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s,@?#]+")


def split_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, an IPv6 host in brackets; port 0 = any free one."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _hosts(text: str) -> str:
    if not all(_HOST.fullmatch(name) for name in _split(text)):
        raise ValueError("must be host names without ports, such as state.example.org, *.example.org or *")
    return text


def _origins(text: str) -> str:
    if not all(_ORIGIN.fullmatch(origin) for origin in _split(text)):
        raise ValueError("must be origins without a path, such as https://app.example.org, or *")
    return text


def _schema(name: str) -> str:
    if not (name.isascii() and name.isidentifier() and name == name.lower() and len(name) <= 48):
        raise ValueError("must be 1 to 48 of a-z 0-9 _, not beginning with a digit")
    return name


def _url(*schemes: str) -> AfterValidator:
    def check(secret: SecretStr) -> SecretStr:
        begins = tuple(f"{scheme}://" for scheme in schemes)
        if not all(address.startswith(begins) for address in secret.get_secret_value().split(",")):
            raise ValueError(f"must begin with {' or '.join(begins)}")
        return secret

    return AfterValidator(check)


_NatsUrl = Annotated[SecretStr, _url("nats", "tls")]
_PostgresUrl = Annotated[SecretStr, _url("postgres", "postgresql")]


class Settings(BaseSettings):
    """Everything that can be set. The variable of `nats_url` is `REFOLD_NATS_URL`, its flag `--nats-url`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    url: str | None = Field(None, pattern=r"^https?://", description="Where commands find a running gateway.")
    data: Path = Field(Path(".refold"), description="Data folder of `refold up`.")
    http: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:8080", description="Where the gateway listens, HOST:PORT; port 0 = any free one."
    )
    probe: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:0",
        description="Where the projector answers probes and metrics, HOST:PORT; port 0 = any free one.",
    )
    nats_port: int = Field(4222, ge=0, le=65_535, description="Port of the embedded NATS; 0 = any free one.")
    postgres_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port of the embedded PostgreSQL; 0 = that of the last start if it is free, else any free one.",
    )
    durability: Literal["fsync", "os"] = Field(
        "fsync", description="Embedded log: `fsync` survives power loss, `os` is for throw-away data."
    )
    nats_url: _NatsUrl | None = Field(
        None, description="NATS, as the service's own user; a cluster's servers with commas between them."
    )
    nats_admin_url: _NatsUrl | None = Field(
        None, description="NATS, as the administrator: creates the log at start if there is none."
    )
    nats_reply_url: _NatsUrl | None = Field(
        None, description="NATS, as a user that can do nothing but reply: the projector sends outcomes by it."
    )
    nats_replicas: int = Field(
        1, ge=1, le=5, description="Servers of a NATS cluster that store the log, if it is created at start."
    )
    postgres_url: _PostgresUrl | None = Field(None, description="Postgres, with all rights on the schema.")
    postgres_schema: Annotated[str, AfterValidator(_schema)] = Field(
        "refold", description="Schema that holds the projection."
    )
    cache_bytes_max: int = Field(
        256 * _MEBIBYTE, ge=_MEBIBYTE, description="Documents that a projector keeps in memory, in bytes."
    )
    shard: str = Field(
        "0-63",
        pattern=r"^\d{1,2}-\d{1,2}$",
        description="The partitions that a projector folds, as FIRST-LAST; all documents are in one of 64.",
    )
    commit_events_max: int = Field(
        50_000,
        ge=1,
        le=1_000_000,
        description="Events in one commit, at most; a commit is as large as the backlog, within this and its memory.",
    )
    state_lag_bytes: int = Field(
        STATE_LAG_BYTES,
        ge=0,
        description="A larger document is not written to its row with every commit; reads are exact all the same.",
    )
    state_lag_seconds: float = Field(
        STATE_LAG_SECONDS,
        ge=0,
        le=3_600,
        description="How long the row of such a document may lag, which only SQL sees; 0 = never.",
    )
    wait_seconds: float = Field(
        5.0, ge=0, le=300, description="How long a write waits for its outcome when it does not say."
    )
    stale_reads: bool = Field(
        False,
        description="Answer reads while a starting gateway waits for the projection, marked by `Refold-Lag-Events`.",
    )
    ready_lag_seconds: float = Field(
        5.0,
        gt=0,
        le=3_600,
        description="A gateway is not ready while the projection is further behind the log than this.",
    )
    http_idle_seconds: float = Field(
        IDLE_SECONDS,
        ge=0.1,
        le=3_600,
        description="A connection on which no request's headers are complete after this is closed.",
    )
    http_body_seconds: float = Field(
        BODY_SECONDS,
        ge=0.1,
        le=3_600,
        description="A request whose body makes no progress for so long is ended: 408.",
    )
    http_waiting_max: int = Field(
        WAITING_MAX,
        ge=1,
        le=1_000_000,
        description="Requests that may wait at a time, for what is not folded yet or for their body; more get 503.",
    )
    http_waiting_per_client_max: int = Field(
        WAITING_PER_CLIENT_MAX,
        ge=1,
        le=1_000_000,
        description="The same from one address; more get 429. Clients behind one proxy share an address.",
    )
    http_hosts: Annotated[str, AfterValidator(_hosts)] | None = Field(
        None,
        description="Host names that the gateway serves besides loopback names and IP addresses, with commas between "
        "them; `*.example.org` for all names below one, `*` for any.",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] | None = Field(
        None,
        description="Origins whose web pages may use the gateway, such as https://app.example.org, with commas "
        "between them; `*` for any.",
    )
    statement_timeout_seconds: float = Field(
        10.0, gt=0, le=3_600, description="How long a reading statement may take in Postgres."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    @property
    def http_host(self) -> str:
        """The host of `http`."""
        return split_address(self.http)[0]

    @property
    def http_port(self) -> int:
        """The port of `http`."""
        return split_address(self.http)[1]

    @property
    def http_hosts_allowed(self) -> tuple[str, ...]:
        """The names in `http_hosts`."""
        return _split(self.http_hosts or "")

    @property
    def cors_origins_allowed(self) -> tuple[str, ...]:
        """The origins in `cors_origins`."""
        return _split(self.cors_origins or "")

    def required(self, name: str) -> str:
        """Return an address that a service cannot do without, its secret in the clear; refuse its absence."""
        secret: SecretStr | None = getattr(self, name)
        if secret is None:
            raise _refused(name, "must be set", "nothing")
        return secret.get_secret_value()


def load(**flags: Any) -> Settings:
    """Read the settings in force: flags (those not None) before variables before defaults."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = str(fault["loc"][0]) if fault["loc"] else ""
        source = f"--{name.replace('_', '-')}" if name in given else f"{PREFIX}{name.upper()}"
        raise Refused("bad_setting", _rule(fault["msg"]), field=source) from error


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
            "from": f"{PREFIX}{name.upper()}" if name in settings.model_fields_set else "default",
            "description": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]


def unknown_variables() -> list[str]:
    """Name the `REFOLD_*` variables that are no settings: most likely misspelt."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return redacted_text(value.get_secret_value())
    return "" if value is None else redacted_text(str(value))


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def _rule(message: str) -> str:
    return message.removeprefix("Value error, ")


def _refused(name: str, rule: str, shape: str) -> Refused:
    return Refused("bad_setting", rule, field=f"{PREFIX}{name.upper()}", shape=shape)
