"""What the projectors have announced, what of it has come, and whether something may be missing.

`refold.progress` says how many change notices a shard's projector has sent since its start. It comes on the connection
of the changes, so that a feed which counts them knows at each of these messages whether one was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.stream import PARTITIONS, parse_shard

AUDIT_SECONDS: Final = 30.0
"""There is an audit this often when nothing else asks for one."""

SILENT_SECONDS: Final = 3.0
"""After so long without progress of a shard, whatever it announces may be missed."""

USUAL_SECONDS: Final = 2.0
"""Progress comes every second or more often; a feed that has heard some within this is not behind."""


class Shard:
    """A shard's projector. `base` is what it had sent before the feed counted.

    `due_sequence`: changes up to it may be missing, so that audits are due until it is committed; 0 for none.
    """

    __slots__ = ("base", "confirmed_at", "due_sequence", "epoch", "heard_at", "partitions", "unsent", "why")

    def __init__(self, partitions: range, epoch: str, why: str, confirmed_at: float) -> None:
        self.partitions = partitions
        self.epoch = epoch
        self.why = why
        self.confirmed_at = confirmed_at
        self.base = self.unsent = self.due_sequence = 0
        self.heard_at = 0.0

    def overlaps(self, partitions: range) -> bool:
        """Tell whether it has one of these partitions."""
        return self.partitions.start < partitions.stop and partitions.start < self.partitions.stop


class Progress:
    """Counts of notices and positions, by partition. Times are seconds of the loop's clock.

    All changes up to `announced` have come, but perhaps not all of those up to `gap_sequence`. Those that concern what
    is watched have been appended up to `sequence`, apart from gaps that are being filled.
    """

    def __init__(self) -> None:
        self.received = [0] * PARTITIONS
        self.announced = [0] * PARTITIONS
        self.gap_sequence = self.sequence = 0
        self._appended = [0] * PARTITIONS
        self._shards: dict[str, Shard] = {}
        self._begun_at = self._audited_at = 0.0

    def begin(self, committed: Sequence[int], now: float) -> None:
        """Begin to count; what is committed is in every head that is read from now on."""
        self.announced, self._appended = list(committed), list(committed)
        self.gap_sequence, self.sequence = max(committed), min(committed)
        self._begun_at = self._audited_at = now

    @property
    def confirmed_at(self) -> float:
        """When it was last known of every shard that nothing is missing."""
        return min((shard.confirmed_at for shard in self._shards.values()), default=self._begun_at)

    def hear(self, body: bytes, now: float) -> Shard | None:
        """Take a progress notice, and return its shard; None for what is none."""
        # Any client can make the broker send an acknowledgement to any subject.
        notice = json_text.object_in(body)
        sent, unsent, folded = notice.get("sent"), notice.get("unsent"), notice.get("folded")
        if type(sent) is not int or type(unsent) is not int or type(folded) is not int:
            return None
        name, epoch = notice.get("shard"), notice.get("epoch")
        if type(name) is not str or type(epoch) is not str:
            return None
        shard = self._shard(name, epoch, now)
        if shard is not None:
            self._take(shard, sent, unsent, folded, now)
        return shard

    def _take(self, shard: Shard, sent: int, unsent: int, folded: int, now: float) -> None:
        partitions = slice(shard.partitions.start, shard.partitions.stop)
        base, is_new = sent - sum(self.received[partitions]), not shard.heard_at
        if is_new or base != shard.base or unsent != shard.unsent:
            if not is_new:
                shard.why = "lost" if base != shard.base else "unsent"
            shard.due_sequence = folded
            self.gap_sequence = max(folded, self.gap_sequence)
        shard.base, shard.unsent, shard.heard_at = base, unsent, now
        _raise(self.announced, partitions, folded)
        if not shard.due_sequence:
            shard.confirmed_at = now
            _raise(self._appended, partitions, folded)
            self.sequence = min(self._appended)

    def _shard(self, name: str, epoch: str, now: float) -> Shard | None:
        """Return a shard, new where its projector is; None for a projector that another one has replaced."""
        shard = self._shards.get(name)
        if shard is not None and shard.epoch == epoch:
            return shard
        try:
            partitions = parse_shard(name)
        except Refused:
            return None
        former = {each: known for each, known in self._shards.items() if known.overlaps(partitions)}
        if any(known.epoch > epoch and now - known.heard_at < SILENT_SECONDS for known in former.values()):
            return None
        for each in former:
            del self._shards[each]
        confirmed_at = min((known.confirmed_at for known in former.values()), default=self._begun_at)
        why = "takeover" if former else "start"
        self._shards[name] = Shard(partitions, epoch, why, confirmed_at)
        return self._shards[name]

    def due(self, now: float) -> str:
        """Return why an audit is due; empty where none is."""
        for shard in self._shards.values():
            if shard.due_sequence:
                return shard.why
        heard_at = min((shard.heard_at for shard in self._shards.values()), default=self._begun_at)
        if now - heard_at > SILENT_SECONDS:
            return "silence"
        return "time" if now - self._audited_at >= AUDIT_SECONDS else ""

    def settle(self, committed: Sequence[int], now: float) -> None:
        """Note an audit of a store that had all of this: what is missing up to there is known."""
        self._audited_at = now
        self._appended = [*map(max, self._appended, committed)]
        self.sequence = min(self._appended)
        for shard in self._shards.values():
            if shard.due_sequence <= min(committed[shard.partitions.start : shard.partitions.stop]):
                shard.due_sequence = 0


def _raise(sequences: list[int], partitions: slice, sequence: int) -> None:
    sequences[partitions] = [max(sequence, each) for each in sequences[partitions]]
