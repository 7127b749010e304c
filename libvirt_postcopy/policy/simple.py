"""Policies that look at one thing."""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy.base import WAIT, Decision, Observation, OnPass
from libvirt_postcopy.units import format_duration

__all__ = ["Manual", "Never", "After", "AfterPrecopy"]


@dataclass(frozen=True)
class Manual:
    """Switch only when somebody asks for it."""

    enables_postcopy = True

    def decide(self, seen: Observation) -> Decision:
        """Never switch by itself."""
        return WAIT

    def __str__(self) -> str:
        return "manual"


@dataclass(frozen=True)
class Never:
    """Plain pre-copy: post-copy is not enabled, so nobody can switch."""

    enables_postcopy = False

    def decide(self, seen: Observation) -> Decision:
        """Never switch."""
        return WAIT

    def __str__(self) -> str:
        return "never"


@dataclass(frozen=True)
class After:
    """Switch when pre-copy has lasted ``seconds``; 0 switches as soon as memory flows."""

    seconds: float
    enables_postcopy = True

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise UsageError(f"a migration cannot switch after {self.seconds} seconds")

    def decide(self, seen: Observation) -> Decision:
        """Compare the time pre-copy has lasted."""
        due = seen.since + self.seconds
        if seen.now < due:
            return Decision(look_again_at=due, needs_stats=False)
        if not self.seconds:
            return Decision(reason="at once, as asked")
        return Decision(reason=f"{format_duration(self.seconds)} of pre-copy are over")

    def __str__(self) -> str:
        return f"after:{format_duration(self.seconds)}"


@dataclass(frozen=True)
class AfterPrecopy:
    """Switch when ``passes`` passes over memory are done.

    A pass is done when its bytes are gone over (:class:`libvirt_postcopy.stats.PassCount`).  Waiting for
    the reading that shows it would cost up to half a second, or a whole pass on a QEMU 7.2 whose link is
    full.  So QEMU's announcement of the next pass is believed where it is credible: QEMU up to 10.0
    announces pass 1 and then each real pass; QEMU 11.1 begins with pass 2 and goes on ten times a second
    whatever has been sent.  Readings may contradict it even so.
    """

    passes: int = 1
    enables_postcopy = True

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise UsageError(
                f"after-precopy needs at least one pass, not {self.passes}"
            )

    def decide(self, seen: Observation) -> Decision:
        """Compare the passes done, by bytes or by a credible announcement."""
        if seen.passes.done >= self.passes:
            return Decision(reason=self._reason)
        if not seen.saw_pass_one:
            return Decision()
        if seen.announced_pass <= self.passes:
            return Decision(needs_stats=False)
        if seen.now < _credible_from(seen):
            return Decision()  # the next reading may confirm it
        return Decision(reason=self._reason)

    def on_pass(self, seen: Observation) -> OnPass | None:
        """What :meth:`decide` will say at the announcement of the next pass."""
        if not seen.saw_pass_one:
            return None
        return OnPass(self.passes + 1, self._reason, _credible_from(seen))

    @property
    def _reason(self) -> str:
        count = "the first pass is" if self.passes == 1 else f"{self.passes} passes are"
        return f"{count} done"

    def __str__(self) -> str:
        return "after-precopy" + (f":{self.passes}" if self.passes > 1 else "")


def _credible_from(seen: Observation) -> float:
    """From when on the readings allow that a pass is done: when half of memory can have been gone over.

    Not all of it has: QEMU begins a pass while one downtime's worth of the last is still to be sent.
    """
    at = seen.when_swept(0.5)
    return float("-inf") if at is None else at
