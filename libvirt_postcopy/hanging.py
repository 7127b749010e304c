"""Whether a call that is under way can come to anything, by what both hosts say.

A call may never come back: the destination's QEMU answers nothing where its main loop waits for a page that only a
recovery can bring, and libvirt waits for the answer without end.  Nor does it always come back where the destination's
half was destroyed in the switch.  And where a link dies for good when all has been sent, nobody notices: the source's
QEMU waits for the destination's last answer, which its own kernel has nothing to send for.
"""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.diagnosis import RUNS, Diagnosis
from libvirt_postcopy.events import Half, Looked
from libvirt_postcopy.phases import Status

__all__ = ["Call", "HANGS_ON", "STALLS", "WAITS_FOR_NOBODY"]

STALLS = "libvirt's call does not come back"
"""Of one that can be left, since the guest does not need it."""

HANGS_ON = f"{STALLS}, and QEMU waits for a resume"
"""What a call that nobody could have resumed waits for in vain, as with libvirt before 8.5."""

WAITS_FOR_NOBODY = "the destination's QEMU has ended, and the source's waits for it"

_HANGS = (
    f"{STALLS}, and both QEMUs wait: the destination's takes no command, as where its main loop"
    " waits for a page itself; only a monitor that was open before reaches it then (--postcopy-monitor-dir)"
)
_AWAITS_ANSWER = (
    "QEMU has sent all of the guest, and the destination's answer to that does not come"
)


@dataclass(frozen=True)
class Call:
    """A call that is under way, as the last looks at both hosts show it.

    :ivar says_there: What the destination's QEMU was last heard to say by itself; libvirt may not be able to take note.
    """

    diagnosis: Diagnosis
    here: Looked
    there: Looked
    says_there: str

    @property
    def waits_for_nobody(self) -> bool:
        """No call can bring the guest back together, if that lasts."""
        return self.diagnosis is Diagnosis.GONE and self.here.status in _WAITS

    @property
    def hangs(self) -> bool:
        """Both QEMUs wait for a resume."""
        is_paused = self.here.status == Status.POSTCOPY_PAUSED
        return is_paused and self.diagnosis in _IN_VAIN

    @property
    def is_stuck(self) -> bool:
        """It can be left if nothing moves for long: the destination has the guest, and no QEMU has noticed anything.

        Or the source's has nothing to give any more, or runs the guest again, as QEMU 10.0 does that was paused when all
        was sent.
        """
        if self.here.run_state == RUNS:
            return self.there.half is not Half.UNKNOWN
        if self.here.half is Half.LEFT:
            return self.runs_there or self.there.half.is_absent
        is_split = self.here.half.is_split and self.runs_there
        return is_split and self.diagnosis is Diagnosis.FLOWING

    @property
    def runs_there(self) -> bool:
        """The destination runs the guest, so that it does not need the call."""
        return self.there.half.is_split or self.there.half is Half.WHOLE

    @property
    def text(self) -> str:
        """What the operator should know of a call that hangs or is stuck; empty where there is nothing to add."""
        if self.is_stuck:
            stats = self.here.stats
            has_sent_all = stats is not None and stats.has_sent_all
            return f"{STALLS}; {_AWAITS_ANSWER}" if has_sent_all else STALLS
        return _HANGS if self.hangs and self._have_both_noticed else ""

    @property
    def _have_both_noticed(self) -> bool:
        says_so = self.says_there == Status.POSTCOPY_PAUSED
        return self.diagnosis is Diagnosis.PAUSED or says_so


#: A source that says so sends no pages, and waits for the destination.  A call waits for it, and may wait for one that is
#: paused: libvirt 9.0's sometimes does not come back where the destination's half was destroyed in the switch.
_WAITS = frozenset(
    (
        Status.POSTCOPY_PAUSED,
        Status.POSTCOPY_RECOVER_SETUP,
        Status.POSTCOPY_RECOVER,
    )
)

#: What both say where a call is waited for in vain; elsewhere it comes back by itself, or may be needed by the guest.
_IN_VAIN = frozenset((Diagnosis.PAUSED, Diagnosis.HALF_PAUSED))
