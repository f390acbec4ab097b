"""Commands that run something: up, projector, gateway. Registered by `refold.cli.app`."""

from __future__ import annotations

import typer

from refold.cli import flags

PANEL = "Run"


def up(
    data: flags.Data = None,
    http: flags.Http = None,
    nats_port: flags.NatsPort = None,
    durability: flags.Durability = None,
    cache_bytes_max: flags.CacheBytesMax = None,
    commit_events_max: flags.CommitEventsMax = None,
    state_lag_bytes: flags.StateLagBytes = None,
    state_lag_seconds: flags.StateLagSeconds = None,
    wait_seconds: flags.WaitSeconds = None,
    stale_reads: flags.StaleReads = None,
    ready_lag_seconds: flags.ReadyLagSeconds = None,
    http_idle_seconds: flags.HttpIdleSeconds = None,
    http_body_seconds: flags.HttpBodySeconds = None,
    http_waiting_max: flags.HttpWaitingMax = None,
    http_waiting_per_client_max: flags.HttpWaitingPerClientMax = None,
    http_hosts: flags.HttpHosts = None,
    cors_origins: flags.CorsOrigins = None,
    statement_timeout_seconds: flags.StatementTimeoutSeconds = None,
    log_level: flags.LogLevel = None,
) -> None:
    """Run the whole system on this machine, nothing to install."""
    import asyncio

    from refold.wiring.settings import load
    from refold.wiring.up import run

    settings = load(
        data=data,
        http=http,
        nats_port=nats_port,
        durability=durability,
        cache_bytes_max=cache_bytes_max,
        commit_events_max=commit_events_max,
        state_lag_bytes=state_lag_bytes,
        state_lag_seconds=state_lag_seconds,
        wait_seconds=wait_seconds,
        stale_reads=stale_reads,
        ready_lag_seconds=ready_lag_seconds,
        http_idle_seconds=http_idle_seconds,
        http_body_seconds=http_body_seconds,
        http_waiting_max=http_waiting_max,
        http_waiting_per_client_max=http_waiting_per_client_max,
        http_hosts=http_hosts,
        cors_origins=cors_origins,
        statement_timeout_seconds=statement_timeout_seconds,
        log_level=log_level,
    )
    asyncio.run(run(settings, say=typer.echo))


def projector(
    nats_url: flags.NatsUrl = None,
    nats_admin_url: flags.NatsAdminUrl = None,
    nats_reply_url: flags.NatsReplyUrl = None,
    nats_replicas: flags.NatsReplicas = None,
    postgres_url: flags.PostgresUrl = None,
    postgres_schema: flags.PostgresSchema = None,
    probe: flags.Probe = None,
    cache_bytes_max: flags.CacheBytesMax = None,
    commit_events_max: flags.CommitEventsMax = None,
    state_lag_bytes: flags.StateLagBytes = None,
    state_lag_seconds: flags.StateLagSeconds = None,
    log_level: flags.LogLevel = None,
) -> None:
    """Run one projector: reads the log, folds it into Postgres."""
    from refold.wiring.projector import run
    from refold.wiring.service import start

    start(
        "projector",
        run,
        nats_url=nats_url,
        nats_admin_url=nats_admin_url,
        nats_reply_url=nats_reply_url,
        nats_replicas=nats_replicas,
        postgres_url=postgres_url,
        postgres_schema=postgres_schema,
        probe=probe,
        cache_bytes_max=cache_bytes_max,
        commit_events_max=commit_events_max,
        state_lag_bytes=state_lag_bytes,
        state_lag_seconds=state_lag_seconds,
        log_level=log_level,
    )


def gateway(
    nats_url: flags.NatsUrl = None,
    postgres_url: flags.PostgresUrl = None,
    postgres_schema: flags.PostgresSchema = None,
    http: flags.Http = None,
    wait_seconds: flags.WaitSeconds = None,
    stale_reads: flags.StaleReads = None,
    ready_lag_seconds: flags.ReadyLagSeconds = None,
    http_idle_seconds: flags.HttpIdleSeconds = None,
    http_body_seconds: flags.HttpBodySeconds = None,
    http_waiting_max: flags.HttpWaitingMax = None,
    http_waiting_per_client_max: flags.HttpWaitingPerClientMax = None,
    http_hosts: flags.HttpHosts = None,
    cors_origins: flags.CorsOrigins = None,
    statement_timeout_seconds: flags.StatementTimeoutSeconds = None,
    log_level: flags.LogLevel = None,
) -> None:
    """Run one gateway: HTTP in front of NATS and Postgres."""
    from refold.wiring.gateway import run
    from refold.wiring.service import start

    start(
        "gateway",
        run,
        nats_url=nats_url,
        postgres_url=postgres_url,
        postgres_schema=postgres_schema,
        http=http,
        wait_seconds=wait_seconds,
        stale_reads=stale_reads,
        ready_lag_seconds=ready_lag_seconds,
        http_idle_seconds=http_idle_seconds,
        http_body_seconds=http_body_seconds,
        http_waiting_max=http_waiting_max,
        http_waiting_per_client_max=http_waiting_per_client_max,
        http_hosts=http_hosts,
        cors_origins=cors_origins,
        statement_timeout_seconds=statement_timeout_seconds,
        log_level=log_level,
    )


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, projector, gateway):
        app.command(rich_help_panel=PANEL)(command)
