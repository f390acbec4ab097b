"""The fixtures that every test may use."""

from support.http import api
from support.servers import fresh_nats, nats_server, nats_urls, postgres_dsn, postgres_server
from support.system import system

__all__ = ["api", "fresh_nats", "nats_server", "nats_urls", "postgres_dsn", "postgres_server", "system"]
