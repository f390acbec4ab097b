"""Refold: shared JSON documents as the fold of an immutable log.

`@refold.resolver("NAME")` makes a function a resolver; everything else of the client is in `refold.client`.
`refold.temporary_system()` runs a whole system in a temporary folder, for tests and experiments.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refold.client.resolvers import resolver as resolver
    from refold.wiring.system import System as System
    from refold.wiring.system import temporary_system as temporary_system

__version__ = "0.1.0"

_HOMES = {
    "resolver": "refold.client.resolvers",
    "System": "refold.wiring.system",
    "temporary_system": "refold.wiring.system",
}
"""Imported when they are used: every program imports this package."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
