"""A line to the gateway that can fail: a relay of one TCP port."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit


class Line:
    """Relay to a gateway: use its `url` instead of the gateway's."""

    def __init__(self, url: str) -> None:
        """Lead to the gateway at a URL, once it is connected."""
        self._gateway = urlsplit(url)
        self._port = 0
        self._loses_answers = False
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """This end of the line."""
        return f"http://127.0.0.1:{self._port}"

    async def connect(self) -> None:
        """Relay from now on; after a cut, at the same port."""
        self._loses_answers = False
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def lose_answers(self) -> None:
        """Relay requests only."""
        self._loses_answers = True

    async def cut(self) -> None:
        """Close all connections, and take no new ones."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(self._gateway.hostname, self._gateway.port)
        self._writers |= {writer, requests}
        with suppress(OSError):
            await asyncio.gather(self._copy(reader, requests), self._copy(answers, writer, is_answer=True))
        self._writers -= {writer, requests}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        while data := await reader.read(65_536):
            if not (is_answer and self._loses_answers):
                writer.write(data)
                await writer.drain()
        writer.close()
