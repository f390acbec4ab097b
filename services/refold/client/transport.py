"""HTTP to one gateway: requests out, answers or errors of our own tree back. Only `refold.client` may use it.

httpx is imported and its errors are translated here, nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from refold.client.patience import Patience
from refold.core import canonical
from refold.core.errors import (
    DocumentAbsent,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)
from refold.core.record import check_name

CONNECT_SECONDS: Final = 5.0
CONNECTIONS_MAX: Final = 64
_NAME_SAFE: Final = ":=@+~"


class Transport:
    """One gateway's connections."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Connect when first asked. `timeout_seconds` bounds the silence while an answer is awaited."""
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            # The settings are the only place that reads the environment.
            trust_env=False,
        )
        self.was_reached = False

    async def ask_surely(self, patience: Patience, method: str, path: str, **asked: Any) -> httpx.Response:
        """Ask, and ask again while no answer comes or the service says that it could not, as `patience` allows.

        Only for what may arrive twice: a write that carries an id. A service that this client has never reached is
        not waited for: its address may be wrong.
        """
        while True:
            try:
                return await self.ask(method, path, **asked)
            except (ServiceUnavailable, TimedOut):
                if not self.was_reached or not await patience.pause():
                    raise

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        also: tuple[int, ...] = (),
    ) -> httpx.Response:
        """Return the answer where its status is a success or one of `also`; raise what it means otherwise."""
        encoded = [(name.encode(), _header(name, value)) for name, value in (headers or {}).items()]
        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = await self._http.request(method, path, params=params, headers=encoded, content=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
        except httpx.TimeoutException as error:
            self.was_reached = True
            raise TimedOut(f"{self.url} did not answer in time") from error
        except httpx.TransportError as error:
            self.was_reached = True
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
        except httpx.InvalidURL as error:
            raise Refused("bad_url", str(error), field="url") from error
        self.was_reached = True
        if response.is_success or response.status_code in also:
            return response
        raise error_of(response.status_code, response.content)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def document_path(namespace: str, document: str, *rest: str) -> str:
    """Name a document's resource; names that break the rule are refused here."""
    names = check_name(namespace, "namespace"), check_name(document, "document")
    return "/".join(["/v1", *(quote(name, safe=_NAME_SAFE) for name in names), *rest])


def namespace_path(namespace: str, *rest: str) -> str:
    """Name a namespace's resource."""
    return "/".join(["/v1", quote(check_name(namespace, "namespace"), safe=_NAME_SAFE), *rest])


def json_of(response: httpx.Response) -> Any:
    """Parse an answer's body strictly."""
    return canonical.loads(response.content)


def error_of(status: int, body: bytes) -> RefoldError:
    """Make the error that a problem document stands for."""
    problem = _problem(body)
    code = str(problem.get("code") or "")
    told = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    if status == 404 and code == VersionUnknown.code:
        return VersionUnknown(told)
    if status == 404 and code == DocumentAbsent.code:
        return DocumentAbsent(told)
    if status == 504:
        return TimedOut(told)
    if status >= 500:
        return ServiceUnavailable(told)
    field, shape = str(problem.get("field") or ""), str(problem.get("shape") or "")
    # The detail says both already, as our own errors would say them again.
    rule = told.removeprefix(f"{field}: ").removesuffix(f" (got {shape})")
    return Refused(code or f"http_{status}", rule, field=field, shape=shape)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = canonical.loads(body)
    except Refused:
        return {}
    return problem if isinstance(problem, dict) else {}


def _header(name: str, value: str) -> bytes:
    if any(character < " " or character == "\x7f" for character in value):
        raise Refused("bad_header", "a header holds no control characters", field=name)
    return value.encode()


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
