"""Refold: shared JSON documents as the fold of an immutable log.

`@refold.resolver("NAME")` makes a function a resolver; everything else of the client is in `refold.client`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refold.client.resolvers import resolver as resolver

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "resolver":
        from refold.client.resolvers import resolver  # noqa: PLC0415 - every program imports this package.

        return resolver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
