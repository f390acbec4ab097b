"""The fixtures that every test may use."""

import gc
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from support.capabilities import pytest_terminal_summary
from support.http import api
from support.redis_servers import redis_server, redis_url, valkey_server, valkey_url
from support.servers import (
    aside,
    fresh_nats,
    migrated,
    migrated_dsn,
    nats_server,
    nats_urls,
    postgres_dsn,
    postgres_server,
)
from support.system import system

__all__ = [
    "api",
    "aside",
    "fresh_nats",
    "migrated",
    "migrated_dsn",
    "nats_server",
    "nats_urls",
    "postgres_dsn",
    "postgres_server",
    "pytest_terminal_summary",
    "redis_server",
    "redis_url",
    "system",
    "valkey_server",
    "valkey_url",
]

# Collecting the tests makes a million objects that stay: looking through them costs a third of the time it takes.
gc.disable()

# Other work on the machine makes an example slow, not wrong; a failure prints what reproduces it.
settings.register_profile("refold", deadline=None, print_blob=True)
settings.load_profile("refold")

# A shell starts background processes with SIGINT ignored; the processes that tests interrupt must receive it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Collect garbage again, but not among what stays."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def reset_logging() -> Iterator[None]:
    """Undo what a command that ran in this process configured: its standard error is closed after the test.

    Fields that a test bound to its log lines are removed: the tests after it would have them too.
    """
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
