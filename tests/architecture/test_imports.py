"""Which package may import which, and which module may import which library."""

from __future__ import annotations

import ast
import re

import pytest
from importlinter.cli import lint_imports

from support.sources import ROOT, imports, is_within, modules

# Each library, and the only modules that may import it.
HOMES = {
    "asyncpg": ["refold.store.postgres", "refold.embedded"],
    "redis": ["refold.store.redis.pool"],
    "hiredis": ["refold.store.redis.pool"],
    "nats": ["refold.log.jetstream.connection"],
    "faststream": ["refold.wiring.broker", "refold.wiring.projector", "refold.wiring.resolver"],
    "fastapi": [],
    "starlette": ["refold.gateway"],
    "httptools": ["refold.wiring.http_server"],
    "granian": [],
    "uvicorn": ["refold.wiring.http_server"],
    "aiohttp": [],
    "yarl": [],
    "yaml": ["refold.gateway.ops"],
    "pydantic": ["refold.alerts", "refold.gateway", "refold.wiring"],
    "pydantic_settings": ["refold.wiring.settings"],
    "typer": ["refold.cli"],
    "rich": ["refold.cli"],
    "psutil": ["refold.embedded", "refold.wiring", "refold.bench", "refold.store.sqlite.schema"],
    "sqlite3": [
        "refold.alerts.storage",
        "refold.usage.storage",
        "refold.store.exclusive",
        "refold.store.sqlite.pool",
        "refold.store.sqlite.schema",
    ],
    "matplotlib": [],
    "memray": ["refold.telemetry.profiling"],
    "opentelemetry": ["refold.telemetry.otlp"],
    # A second opinion shares no code with the first.
    "jsonpatch": ["refold.audit.independent"],
    "json": ["refold.core.json_text", "refold.cli", "refold.audit.independent"],
}

ENVIRONMENT_READERS = ["refold.wiring.settings"]


def test_the_contracts_of_pyproject_hold(capsys):
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert not broken, capsys.readouterr().out


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_by_its_adapter_modules(library):
    strange = [
        f"{found.where} imports {found.name}; only {HOMES[library] or 'no module'} may"
        for found in imports()
        if is_within(found.name, library)
        and not any(is_within(found.module.name, home) for home in HOMES[library])
    ]
    assert not strange, "\n".join(strange)


def test_only_the_settings_read_the_environment():
    strange = [
        f"{module.at(node)}: {ast.unparse(node)}"
        for module in modules()
        if module.name not in ENVIRONMENT_READERS
        for node in ast.walk(module.tree)
        if _reads_environment(node)
    ]
    assert not strange, "\n".join(strange)


def _reads_environment(node):
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(alias.name in names for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os"


def test_no_module_imports_anothers_private_names():
    strange = [
        f"{module.at(node)}: {alias.name}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and is_within(node.module or "", "refold")
        for alias in node.names
        if re.match(r"_(?!_)", alias.name)
    ]
    assert not strange, "\n".join(strange)


def test_only_the_search_by_where_raises_what_is_no_error_of_the_store():
    """A store that does not answer in time is `StoreUnavailable`, which no `except StoreError` misses."""
    raising = {
        module.name
        for module in modules()
        if is_within(module.name, "refold.store")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TimedOut"
    }
    assert raising == {"refold.store.postgres.latest"}
