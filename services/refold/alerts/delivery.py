"""Deliver the notifications of one notifier: a queue, retries, a circuit breaker, and a digest where there are many.

Used by `refold.alerts.engine`. Delivery is at least once; each notification has the same key whenever it is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final

from refold.alerts import Notice, Notification, digest_of
from refold.alerts.notifiers import NotDelivered, Sender
from refold.alerts.storage import Storage, Waiting
from refold.store.layers.breaker import Breaker
from refold.telemetry.logging import get_logger

QUEUE_MAX: Final = 1_000
"""Notifications that wait for one notifier; the oldest is given up for one more."""

ATTEMPTS_MAX: Final = 8
RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 300.0
RETRY_FACTOR: Final = 2.6
"""The pause after an attempt is drawn from 0 to its bound, which grows from the first value to the second."""

BURST: Final = 10
REFILL_SECONDS: Final = 60.0
"""So many notifications are sent one by one, and one more a minute; what waits then is sent as one digest."""


class Delivery:
    """The queue of one notifier, and the task that empties it."""

    def __init__(
        self,
        sender: Sender,
        storage: Storage,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`clock` returns unix seconds, `timer` monotonic ones, `random` a number from 0 to 1."""
        self.sender = sender
        self.is_up = True
        """Whether the last attempt has delivered."""
        self.delivered = self.lost = 0
        self._storage = storage
        self._clock, self._timer, self._random = clock, timer, random
        self._queue: deque[Waiting] = deque()
        self._sent: Sequence[Waiting] = ()
        """What is being sent: a full queue does not give it up."""
        self._has_come = asyncio.Event()
        self._breaker = Breaker(timer=timer, random=random, failures=(NotDelivered,))
        self._tokens, self._refilled_at = float(BURST), timer()

    @property
    def waiting(self) -> int:
        """Notifications that are not delivered yet."""
        return len(self._queue) + len(self._sent)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Put notifications into the queue."""
        self._queue.extend(waiting)
        while len(self._queue) > QUEUE_MAX:
            self._give_up([self._queue.popleft()], "the queue is full")
        self._has_come.set()

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            self._has_come.clear()
            if not self._queue:
                await self._has_come.wait()
            has_waited = not self.sender.is_follower and await self._take_token()
            self._sent = [self._queue.popleft() for _ in range(len(self._queue) if has_waited else 1)]
            await self._send(self._sent)
            self._sent = ()

    async def _take_token(self) -> bool:
        """Wait until the rate allows a notification; return whether it had to wait: then the whole queue is sent."""
        now = self._timer()
        self._tokens = min(BURST, self._tokens + (now - self._refilled_at) / REFILL_SECONDS)
        self._refilled_at = now
        has_waited = self._tokens < 1
        if has_waited:
            await asyncio.sleep((1 - self._tokens) * REFILL_SECONDS)
            self._tokens, self._refilled_at = 1.0, self._timer()
        self._tokens -= 1
        return has_waited

    async def _send(self, batch: Sequence[Waiting]) -> None:
        notification = digest([waiting.notification for waiting in batch])
        for attempt in count():
            if not self._breaker.admits:
                await asyncio.sleep(max(0.0, self._breaker.retry_at - self._timer()))
            try:
                with self._breaker.call():
                    await self.sender.attempt(notification, now=self._clock())
            except NotDelivered as error:
                self.is_up = False
                get_logger().warning(
                    "alert_not_delivered", notifier=self.sender.name, attempt=attempt + 1, error=str(error)
                )
                has_bound = error.is_unexpected or not self.sender.is_follower
                if error.is_final or (has_bound and attempt + 1 >= ATTEMPTS_MAX):
                    self._give_up(batch, str(error))
                    break
                await asyncio.sleep(max(self._pause(attempt), min(error.retry_seconds, RETRY_SECONDS_MAX)))
            else:
                self.is_up = True
                self.delivered += len(batch)
                self._storage.remove(waiting.number for waiting in batch)
                break

    def _pause(self, attempt: int) -> float:
        return self._random() * min(
            RETRY_SECONDS * RETRY_FACTOR ** min(attempt, ATTEMPTS_MAX), RETRY_SECONDS_MAX
        )

    def _give_up(self, batch: Sequence[Waiting], error: str) -> None:
        self.lost += len(batch)
        keys = [waiting.notification.key for waiting in batch]
        get_logger().error("alert_lost", notifier=self.sender.name, notifications=keys[:BURST], error=error)
        self._storage.remove(waiting.number for waiting in batch)


def digest(notifications: Sequence[Notification]) -> Notification:
    """Return one notification for several: of each alert, the newest notice."""
    if len(notifications) == 1:
        return notifications[0]
    newest: dict[str, Notice] = {}
    for notification in notifications:
        for notice in notification.notices:
            newest[notice.fingerprint] = notice
    key = digest_of(*(notification.key for notification in notifications))
    return Notification(key=key, group="digest", notices=tuple(newest.values()))
