"""HTTP to one gateway: requests out, answers or errors of our own tree back. Only `refold.client` may use it.

aiohttp is imported and its errors are translated here, nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

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
_WHOLE_BODY_BYTES_MAX: Final = 512 * 1024
_NAME_SAFE: Final = ":=@+~"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class Answer(NamedTuple):
    """What a gateway answered; the names of the headers are told apart without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """One gateway's connections."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Connect when first asked. `timeout_seconds` bounds the silence while an answer is awaited."""
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=timeout_seconds
        )
        self._session: aiohttp.ClientSession | None = None
        self.was_reached = False

    async def ask_surely(self, patience: Patience, method: str, path: str, **asked: Any) -> Answer:
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
    ) -> Answer:
        """Return the answer where its status is a success or one of `also`; raise what it means otherwise."""
        checked = {name: _header(name, value) for name, value in (headers or {}).items()}
        params = {name: value for name, value in (query or {}).items() if value is not None}
        asked = f"?{urlencode(params, quote_via=quote)}" if params else ""
        answer = await self._answer(method, f"{self.url}{path}{asked}", checked, body)
        self.was_reached = True
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise error_of(answer.status, answer.body)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def _answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        session = self._session = self._session or self._open()
        try:
            target = URL(url, encoded=True)
            # aiohttp sends a stream piece by piece: a large body at once would hold up everything else.
            data = BytesIO(body) if body is not None and len(body) > _WHOLE_BODY_BYTES_MAX else body
            asking = session.request(method, target, headers=headers, data=data, allow_redirects=False)
            async with asking as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
        except (ValueError, aiohttp.NonHttpUrlClientError) as error:
            rule = f"an address is http:// or https://, a host and a port: {error}"
            raise Refused("bad_url", rule, field="url", shape=repr(self.url[:80])) from error
        except aiohttp.ServerTimeoutError as error:
            self.was_reached = True
            raise TimedOut(f"{self.url} did not answer in time") from error
        except aiohttp.ClientError as error:
            self.was_reached = True
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            middlewares=(_once,),
            # A body's type is said by who sends one.
            skip_auto_headers=("Content-Type",),
        )


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep the library from sending again by itself what its caller may not want sent twice."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(_why(error)) from error


def document_path(namespace: str, document: str, *rest: str) -> str:
    """Name a document's resource; names that break the rule are refused here."""
    names = check_name(namespace, "namespace"), check_name(document, "document")
    return "/".join(["/v1", *(quote(name, safe=_NAME_SAFE) for name in names), *rest])


def namespace_path(namespace: str, *rest: str) -> str:
    """Name a namespace's resource."""
    return "/".join(["/v1", quote(check_name(namespace, "namespace"), safe=_NAME_SAFE), *rest])


def json_of(answer: Answer) -> Any:
    """Parse an answer's body strictly."""
    return canonical.loads(answer.body)


def error_of(status: int, body: bytes) -> RefoldError:
    """Make the error that a problem document stands for."""
    problem = _problem(body)
    code = str(problem.get("code") or "")
    told = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    if status == 404 and code == VersionUnknown.code:
        return VersionUnknown(told)
    if status == 404 and code == DocumentAbsent.code:
        return DocumentAbsent(told)
    if status in (408, 504):
        return TimedOut(told)
    if status == 429 or status >= 500:
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


def _header(name: str, value: str) -> str:
    if _CONTROL.search(value):
        raise Refused("bad_header", "a header holds no control characters", field=name)
    if _SURROGATE.search(value):
        raise Refused("bad_header", "a header holds no lone surrogates", field=name)
    return value


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
