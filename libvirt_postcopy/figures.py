"""What a migration comes to: the figures that are shown and returned at its end."""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.stats import Stats

__all__ = ["Figures", "Summary", "SwitchRecord"]


@dataclass(frozen=True)
class SwitchRecord:
    """When and why the switch was asked for, and when it came.  Times are ms since the start.

    :ivar attempts: How often ``migrate-start-postcopy`` was sent by us, accepted or refused.
    :ivar took_effect_ms: When the source said that it is in post-copy; None if it never did.
    """

    reason: str
    asked_ms: float
    attempts: int = 0
    took_effect_ms: float | None = None


@dataclass(frozen=True)
class Summary:
    """The figures of a migration.

    :ivar ended_ms: From the start to the end on our clock, the one of ``switch``; None before the end.
    :ivar total_ms: From the start to the end as QEMU counts it, else as we saw it.
    :ivar downtime_ms: From the source's STOP to the destination's RESUME where both were seen on our
        clock, else QEMU's own figure.
    :ivar qemu_downtime_ms: QEMU's own figure.
    :ivar passes: Passes over memory that were done before the guest was stopped.
    :ivar precopy_bytes: Sent for memory up to the switch, by a reading right after it; None if there was
        none.
    :ivar postcopy_bytes: Sent for memory since then.
    :ivar switch: None if the migration completed as pre-copy.
    """

    ended_ms: float | None = None
    total_ms: float | None = None
    setup_ms: float | None = None
    downtime_ms: float | None = None
    qemu_downtime_ms: float | None = None
    passes: int = 0
    precopy_bytes: int | None = None
    postcopy_bytes: int | None = None
    postcopy_requests: int | None = None
    switch: SwitchRecord | None = None


class Figures:
    """Collects what is needed for a :class:`Summary`.

    :param started: When the migration began; all times are seconds on the caller's clock.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._stopped: float | None = None
        self._resumed: float | None = None
        self._switched: float | None = None
        self._was_switch_seen = False
        self._ended: float | None = None
        self._last: Stats | None = None
        self._at_switch: Stats | None = None
        self._final: Stats | None = None

    @property
    def stats(self) -> Stats | None:
        """The last reading."""
        return self._last

    @property
    def is_stopped(self) -> bool:
        """The vCPUs of the source were seen to stop, and not to go on."""
        return self._stopped is not None

    @property
    def is_resumed(self) -> bool:
        """The vCPUs were seen to run on the destination."""
        return self._resumed is not None

    @property
    def wants_reading(self) -> bool:
        """The bytes of the two phases cannot be told apart yet."""
        return self._was_switch_seen and self._at_switch is None

    @property
    def downtime_ms(self) -> float | None:
        """From the source's STOP to the destination's RESUME; None until both were seen."""
        if self._stopped is None or self._resumed is None:
            return None
        return max(self._resumed - self._stopped, 0.0) * 1000

    def ms(self, now: float) -> float:
        """Milliseconds since the start."""
        return (now - self._started) * 1000

    def stop(self, now: float) -> None:
        """The source's vCPUs stopped.  libvirt's own event comes a moment after QEMU's."""
        if self._stopped is None:
            self._stopped = now

    def go_on(self) -> None:
        """The source's vCPUs run again."""
        self._stopped = None

    def resume(self, now: float) -> None:
        """The destination's vCPUs run."""
        if self._resumed is None:
            self._resumed = now

    def switch(self, now: float, *, was_seen: bool = True) -> None:
        """The switch took effect.

        :param was_seen: False if it came before anybody looked: the bytes cannot be divided then.
        """
        if self._switched is None:
            self._switched = now
            self._was_switch_seen = was_seen

    def read(self, stats: Stats, asked: float) -> None:
        """Take a reading; the first one asked for after the switch divides the bytes between the phases."""
        self._last = stats
        is_after = self._switched is not None and asked >= self._switched
        if is_after and self.wants_reading:
            self._at_switch = stats

    def finish(self, stats: Stats) -> None:
        """Take libvirt's final statistics."""
        self._final = stats

    def end(self, now: float) -> None:
        """The operation is over."""
        self._ended = now

    def summary(self, passes: int, switch: SwitchRecord | None) -> Summary:
        """The figures so far."""
        final = self._final or self._last or Stats()
        has_switched = switch is not None and switch.took_effect_ms is not None
        ours_ms = None if self._ended is None else self.ms(self._ended)
        is_final = self._final is not None or self._ended is not None
        # QEMU's own is an expectation until the end.
        qemu_downtime_ms = final.downtime_ms if is_final else None
        downtime_ms = self.downtime_ms
        counts = self._counts(final)
        before, after = (
            self._sent(counts) if has_switched else (counts.memory_sent, None)
        )
        return Summary(
            ended_ms=ours_ms,
            total_ms=ours_ms if final.elapsed_ms is None else final.elapsed_ms,
            setup_ms=final.setup_ms,
            downtime_ms=qemu_downtime_ms if downtime_ms is None else downtime_ms,
            qemu_downtime_ms=qemu_downtime_ms,
            passes=passes,
            precopy_bytes=before,
            postcopy_bytes=after,
            postcopy_requests=counts.postcopy_requests,
            switch=switch if has_switched else None,
        )

    def _counts(self, final: Stats) -> Stats:
        """What counts, and so only grows: libvirt's final statistics are older than the last reading
        where it called post-copy failed meanwhile (seen with 9.0)."""
        if self._last is None or (self._last.memory_sent or 0) <= (
            final.memory_sent or 0
        ):
            return final
        return self._last

    def _sent(self, final: Stats) -> tuple[int | None, int | None]:
        """Bytes before and after the switch."""
        before = None if self._at_switch is None else self._at_switch.memory_sent
        if before is None or final.memory_sent is None:
            return before, None
        return before, final.memory_sent - before
