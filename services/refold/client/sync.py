"""The client for programs without asyncio: the methods of `refold.client.Refold`, each run to its end.

`from refold.client.sync import Refold`. Several threads may use an instance; their calls run one after the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from refold.client import client
from refold.client.client import TIMEOUT_SECONDS
from refold.client.requests import WatchOptions
from refold.client.responses import DocumentUpdate, NamespaceUpdate
from refold.client.transport import DEFAULT_URL, RETRY_SECONDS

P = ParamSpec("P")
T = TypeVar("T")


def _run(
    method: Callable[Concatenate[client.Refold, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Refold, P], T]:
    @wraps(method)
    def run(self: Refold, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(lambda: method(self.wrapped, *args, **kwargs))

    return run


def _iterate(
    method: Callable[Concatenate[client.Refold, P], AsyncIterator[T]],
) -> Callable[Concatenate[Refold, P], Iterator[T]]:
    @wraps(method)
    def iterate(self: Refold, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self.each(method(self.wrapped, *args, **kwargs))

    return iterate


class Refold(AbstractContextManager["Refold"]):
    """A running Refold, by its gateway's address.

    ```python
    with Refold("http://127.0.0.1:8080") as refold:
        refold.put("acme", "order-1", {"total": 10})
        print(refold.get("acme", "order-1").state)
    ```
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Connect on first use; the arguments are those of `refold.client.Refold`."""
        self.runner = asyncio.Runner()
        self.is_closed = False
        self.lock = threading.Lock()
        self.options: dict[str, Any] = {
            "timeout_seconds": timeout_seconds,
            "retry_seconds": retry_seconds,
            "trace": trace,
        }
        self.wrapped = client.Refold(url, **self.options)

    put = _run(client.Refold.put)
    patch = _run(client.Refold.patch)
    merge = _run(client.Refold.merge)
    delete = _run(client.Refold.delete)
    revert = _run(client.Refold.revert)
    undo = _run(client.Refold.undo)
    append = _run(client.Refold.append)
    transact = _run(client.Refold.transact)
    get = _run(client.Refold.get)
    history = _iterate(client.Refold.history)
    blame = _iterate(client.Refold.blame)
    diff = _run(client.Refold.diff)
    list = _iterate(client.Refold.list)
    names = _iterate(client.Refold.names)
    rejections = _iterate(client.Refold.rejections)
    conflicts = _iterate(client.Refold.conflicts)
    conflict = _run(client.Refold.conflict)
    outcome = _run(client.Refold.outcome)
    namespaces = _run(client.Refold.namespaces)
    status = _run(client.Refold.status)
    health = _run(client.Refold.health)

    @overload
    def watch(
        self, namespace: str, document: str, **options: Unpack[WatchOptions]
    ) -> Iterator[DocumentUpdate]: ...

    @overload
    def watch(
        self, namespace: str, document: None = None, **options: Unpack[WatchOptions]
    ) -> Iterator[NamespaceUpdate]: ...

    def watch(
        self, namespace: str, document: str | None = None, **options: Unpack[WatchOptions]
    ) -> Iterator[DocumentUpdate] | Iterator[NamespaceUpdate]:
        """Yield what `refold.client.Refold.watch` does. Other calls and threads do not wait for it."""
        # Its wait for the next update would hold the lock.
        with Refold(self.wrapped.url, **self.options) as own:
            updates = own.wrapped.watch(namespace, document, **options)
            yield from own.each(updates)  # type: ignore[misc]

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Yield what an iterator of the asynchronous client does."""

        async def following() -> T:
            return await anext(items)

        with suppress(StopAsyncIteration):
            while True:
                yield self.run(following)

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a call of the asynchronous client to its end.

        Raises `RuntimeError` inside a running event loop, and once the client is closed.
        """
        if _is_in_event_loop():
            raise RuntimeError(
                "an event loop runs in this thread: use `from refold.client import Refold` and await its methods"
            )
        with self.lock:
            if self.is_closed:
                raise RuntimeError("the client is closed")
            # Such as the current span of a trace.
            return self.runner.run(call(), context=copy_context())

    def close(self) -> None:
        """Close the connections. A closed client stays closed."""
        if self.is_closed:
            return
        self.run(self.wrapped.close)
        self.is_closed = True
        self.runner.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
