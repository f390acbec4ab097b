"""Clients that read and write all the time: was each read answered, by which store, and by nothing older?"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from random import Random
from urllib.parse import urlsplit

from refold.client import Refold

NAMESPACE = "stock"
GATEWAY = "the gateway"
"""It answers without a store where its own write is folded and not committed yet."""

READERS, WRITERS, ARTICLES = 6, 4, 20
READ_PAUSE_SECONDS, WRITE_PAUSE_SECONDS = 0.02, 0.1


class Traffic:
    """What the clients have seen."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.last_answer: dict[str, float] = {}
        self.seconds: list[float] = []
        self.unanswered = 0
        self.older = 0
        self.written: Counter[str] = Counter()
        self.newest: dict[str, int] = {}
        self.is_over = False

    def note(self, article: str, sequence: int) -> None:
        """Note the sequence of the newest state of an article that any client was sent."""
        self.newest[article] = max(sequence, self.newest.get(article, 0))

    def read(self, url: str, seed: int) -> None:
        """Read articles until it is over, by plain HTTP; compare each answer with those that came before."""
        chance, where = Random(seed), urlsplit(url).netloc  # noqa: S311 - not a secret.
        connection = HTTPConnection(where, timeout=10)
        while not self.is_over:
            article = chance.choice(list(self.newest))
            before, begun = self.newest[article], time.monotonic()
            try:
                connection.request("GET", f"/v1/{NAMESPACE}/{article}")
                response = connection.getresponse()
                response.read()
            except (OSError, HTTPException):
                self.unanswered += 1
                connection.close()
                continue
            self.seconds.append(time.monotonic() - begun)
            if response.status != 200:
                self.unanswered += 1
                continue
            store = response.headers.get("Refold-Store", GATEWAY)
            sequence = int(response.headers["Refold-Sequence"])
            self.answered[store] += 1
            self.last_answer[store] = begun
            self.older += sequence < before
            self.note(article, sequence)
            time.sleep(READ_PAUSE_SECONDS)
        connection.close()

    async def write(self, refold: Refold, number: int) -> None:
        """Count up this writer's articles until it is over."""
        articles = [f"article-{article:02}" for article in range(number, ARTICLES, WRITERS)]
        while not self.is_over:
            for article in articles:
                patch = [{"op": "inc", "path": "/sold", "inc": 1}]
                outcome = (
                    await refold.patch(NAMESPACE, article, patch, type="article.sold")
                ).raise_for_status()
                self.written[article] += 1
                self.note(article, outcome.sequence or 0)
                await asyncio.sleep(WRITE_PAUSE_SECONDS)


@asynccontextmanager
async def traffic(refold: Refold) -> AsyncIterator[Traffic]:
    """Read and write during the block; then check that every write that was acknowledged is there."""
    seen = Traffic()
    for number in range(ARTICLES):
        article = f"article-{number:02}"
        outcome = await refold.put(NAMESPACE, article, {"sold": 0}, type="article.added")
        seen.note(article, outcome.sequence or 0)
    reading = partial(asyncio.get_running_loop().run_in_executor, ThreadPoolExecutor(READERS), seen.read)
    readers = [reading(refold.url, number) for number in range(READERS)]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(seen.write(refold, number))
            yield seen
            seen.is_over = True
    finally:
        seen.is_over = True
        await asyncio.gather(*readers)
    for article, count in seen.written.items():
        assert (await refold.get(NAMESPACE, article)).state == {"sold": count}, article
    assert (seen.unanswered, seen.older) == (0, 0)
