"""What was heard of a guest, and what follows from it; no socket and no thread.

Connections are numbered in the order they came. A guest that moves beats on a
later connection and goes on counting where it was; a beat on an earlier connection
after that means that two QEMUs run one guest.
"""

import bisect
from array import array
from dataclasses import dataclass
from typing import Optional

from .pattern import PAGE_BYTES
from .wire import BEAT_MODULUS, Decoder, Message, MessageType

__all__ = ["Journal", "Gap", "Stray"]

_MIB = 1 << 20
# A beat so far behind the last one is rather a repeated one than the next.
_MOST_LOST = 96


@dataclass(frozen=True)
class Gap:
    """A time without beats.

    ``bunch`` beats arrived together at its end. A guest cannot send two at once, so
    more than one means that the listener itself came late: the guest stood still for
    less than ``length_s``, by about ``bunch - 1`` beats.
    """

    start: float
    end: float
    from_connection: int
    to_connection: int
    bunch: int
    is_open: bool = False  #: no beat has ended it yet

    @property
    def length_s(self) -> float:
        return self.end - self.start

    @property
    def moved(self) -> bool:
        """Whether the guest came out of it on another QEMU."""
        return self.from_connection != self.to_connection


@dataclass(frozen=True)
class Stray:
    """A beat of an older connection after a newer one had begun: split brain."""

    time: float
    connection: int
    running: int  #: the newer connection


@dataclass(frozen=True)
class _Anchor:
    """What was certain when the last message had come."""

    tick: int = 0
    beats: int = 0
    lost: int = 0
    repeated: int = 0


class Journal:
    """All beats and messages of one guest.

    Beats count from the first complete message on: before it, the line may carry
    what a firmware prints.

    A listener that is not scheduled for some 0.15 s makes QEMU drop what does not fit
    into the socket: beats are lost, and the guest is none the worse for it. A beat
    carries seven bits of its tick. Of many lost in a row it does not tell how many,
    and they may look like a guest that went back. So ``lost``, ``repeated`` and
    ``ticks`` are a guess from one message to the next. A message, of which there are
    ten a second, carries the whole tick: it puts right what was guessed since the
    one before, and then they are exact, save that losses and repetitions between the
    same two messages may cancel out.
    """

    def __init__(self) -> None:
        self.lost = 0  #: beats that never came
        self.repeated = 0  #: beats of a tick that had been heard already
        self.boots = 0
        self.running: Optional[int] = None  #: connection of the newest beats
        self.strays: list[Stray] = []
        self.fault: Optional[Message] = None
        self.filled_at: Optional[float] = None
        self.last_message: Optional[Message] = None
        self._times = array("d")
        self._connections = array("L")
        self._by_connection: dict[int, int] = {}
        self._tick: Optional[int] = None
        self._highest = 0
        self._anchor = _Anchor()
        self._decoders: dict[int, Decoder] = {}
        self._last_byte: dict[int, int] = {}
        self._progress: list[tuple[float, Message]] = []

    @property
    def beats(self) -> int:
        return len(self._times)

    @property
    def ticks(self) -> Optional[int]:
        """Tick count of the last beat, None before the first message."""
        return self._tick

    @property
    def last_beat_time(self) -> Optional[float]:
        return self._times[-1] if self._times else None

    @property
    def messages(self) -> int:
        """Complete messages of the guest that runs."""
        return len(self._progress)

    @property
    def damaged(self) -> int:
        """Messages that arrived incomplete or changed."""
        return sum(decoder.damaged for decoder in self._decoders.values())

    def beats_of(self, connection: int) -> int:
        return self._by_connection.get(connection, 0)

    def feed(self, connection: int, data: bytes, now: float) -> None:
        """Take in what one connection sent, all of it received at ``now``."""
        decoder = self._decoders.setdefault(connection, Decoder())
        for word in decoder.feed(data):
            if isinstance(word, Message):
                self._take_message(connection, word, now)
            else:
                self._take_beat(connection, word, now)

    def _take_beat(self, connection: int, beat: int, now: float) -> None:
        self._last_byte[connection] = beat
        if self._tick is None:
            return
        if self.running is not None and connection < self.running:
            self.strays.append(Stray(now, connection, self.running))
            return
        self.running = connection
        step = (beat - self._tick) % BEAT_MODULUS
        if step > _MOST_LOST:
            step -= BEAT_MODULUS
        self._advance_to(self._tick + step)
        self._times.append(now)
        self._connections.append(connection)
        self._by_connection[connection] = self.beats_of(connection) + 1

    def _advance_to(self, tick: int) -> None:
        self._tick = tick
        if tick <= self._highest:
            self.repeated += 1
            return
        self.lost += tick - self._highest - 1
        self._highest = tick

    def _take_message(self, connection: int, message: Message, now: float) -> None:
        if self.running is not None and connection < self.running:
            return
        begins = self.last_message is None or self.last_message.seed != message.seed
        if begins:
            self.boots += 1
        self._correct_ticks(message, self._last_byte.get(connection), begins)
        self.last_message = message
        if message.type is MessageType.NO_MEMORY:
            self.fault = message
        if message.sweep and self.filled_at is None:
            self.filled_at = now
        self._progress.append((now, message))

    def _correct_ticks(
        self, message: Message, beat: Optional[int], begins: bool
    ) -> None:
        """Learn the full tick count, of which a beat has seven bits only."""
        if beat is None:
            return
        tick = message.ticks + (beat - message.ticks) % BEAT_MODULUS
        if self._tick is None or begins:
            # What was guessed across a reset means nothing.
            self.lost, self.repeated = self._anchor.lost, self._anchor.repeated
            self._highest = tick
        elif tick != self._tick:
            self._recount(tick)
        self._tick = tick
        self._anchor = _Anchor(tick, self.beats, self.lost, self.repeated)

    def _recount(self, tick: int) -> None:
        """Replace what was guessed since the last message, which was wrong."""
        anchor = self._anchor
        missing = tick - anchor.tick - (self.beats - anchor.beats)
        self.lost = anchor.lost + max(missing, 0)
        self.repeated = anchor.repeated + max(-missing, 0)
        self._highest = tick

    def longest_gaps(
        self,
        count: int = 1,
        *,
        since: Optional[float] = None,
        until: Optional[float] = None,
        now: Optional[float] = None,
    ) -> list[Gap]:
        """Return the longest gaps that reach into the time given, longest first.

        :param now: Also count the gap from the last beat to now, which may still be
            growing: a dead guest has a long one.
        """
        gaps = self._gaps(since, until)
        if now is not None and self._times and (until is None or now <= until):
            last = self._connections[-1]
            gaps.append(Gap(self._times[-1], now, last, last, 0, True))
        return sorted(gaps, key=lambda gap: gap.length_s, reverse=True)[:count]

    def _gaps(self, since: Optional[float], until: Optional[float]) -> list[Gap]:
        times, connections = self._times, self._connections
        first = 0 if since is None else max(bisect.bisect_right(times, since) - 1, 0)
        last = len(times) if until is None else bisect.bisect_left(times, until) + 1
        gaps = []
        for index in range(first + 1, min(last, len(times))):
            if times[index] == times[index - 1]:
                continue
            gaps.append(
                Gap(
                    times[index - 1],
                    times[index],
                    connections[index - 1],
                    connections[index],
                    bisect.bisect_right(times, times[index]) - index,
                )
            )
        return gaps

    def beats_between(self, since: float, until: float) -> int:
        times = self._times
        return bisect.bisect_right(times, until) - bisect.bisect_right(times, since)

    def dirty_rate_mib_s(
        self, working_pages: int, *, since: float, until: float
    ) -> Optional[float]:
        """Return how fast pages were rewritten, None if too little was heard."""
        heard = [
            (time, message)
            for time, message in self._progress
            if since <= time <= until and message.sweep
        ]
        if len(heard) < 2 or heard[-1][0] == heard[0][0]:
            return None
        (start, first), (end, last) = heard[0], heard[-1]
        sweeps = last.sweep - first.sweep
        pages = sweeps * working_pages + last.position - first.position
        return pages * PAGE_BYTES / _MIB / (end - start)
