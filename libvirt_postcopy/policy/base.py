"""What a policy sees and says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from libvirt_postcopy.stats import PassCount, Stats

__all__ = ["Observation", "Decision", "OnPass", "Policy", "WAIT"]


@dataclass(frozen=True)
class Observation:
    """What is known of a migration in pre-copy at one moment.  Times are seconds on one clock.

    :ivar now: The moment.
    :ivar since: When pre-copy began.
    :ivar stats: The last reading; None before the first.
    :ivar stats_at: When it was asked for.  QEMU 7.2 looks then, but may answer only at the end of the
        pass: its monitor is held up while the link is full.
    :ivar passes: Passes done, by bytes.
    :ivar announced_pass: The highest pass that QEMU has announced; 0 before the first.
    :ivar saw_pass_one: QEMU announced pass 1, so it announces passes, not looks at the dirty bitmap.
    """

    now: float
    since: float
    stats: Stats | None = None
    stats_at: float = 0.0
    passes: PassCount = PassCount()
    announced_pass: int = 0
    saw_pass_one: bool = False

    @property
    def passes_done(self) -> int:
        """Passes done, by bytes; where QEMU announces passes, one may be done that no reading has shown."""
        if not self.saw_pass_one:
            return self.passes.done
        return max(self.passes.done, self.announced_pass - 1)

    def when_swept(self, share: float) -> float | None:
        """When so much of memory has been gone over: the last reading, carried on at its rate.

        Or at the rate so far where that is higher: pages of zeros hardly count on the link.  None where no reading
        gives a rate.

        :param share: 1 is all of memory.
        """
        if self.stats is None or not self.stats.memory_total:
            return None
        swept, before = self.stats.swept_bytes, self.stats_at - self.since
        rate = max(self.stats.bytes_per_s or 0, swept / before if before > 0 else 0)
        if not rate:
            return None
        return self.stats_at + (share * self.stats.memory_total - swept) / rate


@dataclass(frozen=True)
class OnPass:
    """A decision made beforehand: to switch as soon as QEMU announces a pass.

    :ivar number: That pass, or a later one.
    :ivar reason: Why, in words for people.
    :ivar not_before: What is announced earlier is decided on when it is seen.
    """

    number: int
    reason: str
    not_before: float = float("-inf")


@dataclass(frozen=True)
class Decision:
    """A policy's answer.

    :ivar reason: Why to switch, in words for people; None to go on with pre-copy.
    :ivar look_again_at: When the answer may change though nothing was seen; None for never.
    :ivar needs_stats: The next reading of the statistics may change it.  Where none does, and nobody
        watches, QEMU is left in peace: a reading that is on its way can delay the switch.
    """

    reason: str | None = None
    look_again_at: float | None = None
    needs_stats: bool = True


WAIT = Decision(needs_stats=False)
"""Go on with pre-copy until something other than a reading is seen."""


class Policy(Protocol):
    """When to switch.  Pure: the same observation gives the same decision."""

    @property
    def enables_postcopy(self) -> bool:
        """Whether the migration must be started with post-copy enabled."""

    def decide(self, seen: Observation) -> Decision:
        """Say whether to switch now."""

    def __str__(self) -> str:
        """Write the policy as :func:`libvirt_postcopy.policy.parse` reads it."""
