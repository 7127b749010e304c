"""What was seen.  Values only: adapters make them, the core takes them, the recorder keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from libvirt_postcopy.stats import Stats

__all__ = [
    "Side",
    "Place",
    "Half",
    "Event",
    "StatusSeen",
    "SplitSeen",
    "PassSeen",
    "StatsSeen",
    "StatsWanted",
    "Stopped",
    "Resumed",
    "Died",
    "SplitFailed",
    "SwitchRequested",
    "SwitchAccepted",
    "SwitchRefused",
    "SwitchUnanswered",
    "SwitchNotSeen",
    "AbortRequested",
    "AbortRefused",
    "Attached",
    "Looked",
    "SwitchHeld",
    "PauseRefused",
    "Finished",
    "Remarked",
    "Ended",
]


class Side(str, Enum):
    """Which of the two hosts."""

    SOURCE = "source"
    DESTINATION = "destination"


class Place(str, Enum):
    """Where the guest is, in the words that ``MigrationError.guest`` uses."""

    SOURCE = "source"  #: a failure goes back; the destination may be removed
    SPLIT = "split"  #: neither half may be destroyed, resumed, reset or undefined
    DESTINATION = "destination"
    LOST = "lost"
    UNKNOWN = "unknown"  #: a host could not be asked; handle it like a split one


class Half(str, Enum):
    """What one host has of the guest: what its daemon says of the domain, unless its QEMU knows better."""

    WHOLE = "whole"  #: an ordinary one, running or stopped for reasons of its own
    MIGRATING = "migrating"  #: stopped for the switch, or waiting for its memory
    SPLIT = "split"
    SPLIT_FAILED = "split, post-copy failed"
    LEFT = "left"  #: of a source that has sent all in post-copy, whatever libvirt calls it: the guest as it was at the switch
    INACTIVE = "inactive"
    GONE = "gone"
    UNKNOWN = "unknown"  #: the daemon does not answer

    @property
    def is_split(self) -> bool:
        """It needs the other half."""
        return self in (Half.SPLIT, Half.SPLIT_FAILED)

    @property
    def is_absent(self) -> bool:
        """No QEMU has any of it."""
        return self in (Half.GONE, Half.INACTIVE)


class Event:
    """Base of all events."""


@dataclass(frozen=True)
class StatusSeen(Event):
    """A side's QEMU is in this status (QAPI ``MigrationStatus``), known to us or not.

    A level, not an edge: the same status may be seen several times, and some may be missed.
    """

    side: Side
    status: str


@dataclass(frozen=True)
class SplitSeen(Event):
    """libvirt says that a side is in post-copy.

    It lags behind QEMU's own status, which may have gone on to ``completed`` by now.
    """

    side: Side


@dataclass(frozen=True)
class PassSeen(Event):
    """QEMU's ``MIGRATION_PASS``, libvirt's migration iteration: pass ``number`` begins."""

    number: int


@dataclass(frozen=True)
class StatsSeen(Event):
    """A reading of the source's statistics; None where none could be had."""

    stats: Stats | None


@dataclass(frozen=True)
class StatsWanted(Event):
    """Somebody looks at the statistics."""


@dataclass(frozen=True)
class Stopped(Event):
    """The vCPUs of a side stopped (``STOP``)."""

    side: Side


@dataclass(frozen=True)
class Resumed(Event):
    """The vCPUs of a side run (``RESUME``)."""

    side: Side


@dataclass(frozen=True)
class Died(Event):
    """A side's QEMU ended, and neither the guest nor anybody else had asked for it."""

    side: Side


@dataclass(frozen=True)
class SplitFailed(Event):
    """libvirt says "post-copy failed" of a side.

    Ambiguous: QEMU's channel broke, or only a control connection was lost while pages still flow.
    """

    side: Side


@dataclass(frozen=True)
class SwitchRequested(Event):
    """The caller wants the switch now."""

    reason: str


@dataclass(frozen=True)
class SwitchAccepted(Event):
    """``migrate-start-postcopy`` was accepted, which means only that QEMU set a boolean.

    :ivar unchecked: Why the destination's daemon could not be asked before whether it lives.
    """

    unchecked: str = ""


@dataclass(frozen=True)
class SwitchRefused(Event):
    """libvirt or QEMU was asked ``migrate-start-postcopy`` and said no, or nothing was sent.

    :ivar is_final: Asking again cannot help, for example because post-copy was not enabled.
    """

    message: str
    is_final: bool


@dataclass(frozen=True)
class SwitchUnanswered(Event):
    """Nobody knows what became of ``migrate-start-postcopy``: QEMU may have noted it.

    :ivar message: What stands in the place of the answer.
    """

    message: str


@dataclass(frozen=True)
class SwitchNotSeen(Event):
    """No look at the source has found by now that the switch that was sent has taken effect."""


@dataclass(frozen=True)
class AbortRequested(Event):
    """The caller wants the migration undone, if that is still possible."""


@dataclass(frozen=True)
class AbortRefused(Event):
    """The abort could not be carried out now, for example because the job is only being set up."""

    message: str


@dataclass(frozen=True)
class Attached(Event):
    """A migration that somebody else has started is watched from here on; no call of ours is under way.

    :ivar knows_destination: The destination can be looked at, and the migration be resumed.
    """

    knows_destination: bool = True


@dataclass(frozen=True)
class SwitchHeld(Event):
    """The switch was not sent: now it would endanger the guest.

    :ivar reason: Why, in words for people.
    """

    reason: str


@dataclass(frozen=True)
class Looked(Event):
    """What a look at one host found.

    :ivar half: What its daemon says of the domain; unknown where it does not answer.
    :ivar status: What QEMU itself says (QAPI ``MigrationStatus``); of the source only, since the monitor of a
        destination cannot be reached through libvirt.  None where it could not be asked.
    :ivar stats: The source's.
    :ivar obstacle: Why a broken migration must not be resumed through this host's daemon, or cannot be;
        empty where nothing speaks against it.
    :ivar run_state: What the QEMU of a split source says of its vCPUs (QAPI ``RunState``); empty where it was not asked.
    :ivar qemu: The version of the QEMU that holds the half, as ``virConnectGetVersion`` writes it; 0 where unknown.
    :ivar stands_still: A destination's main loop does, so libvirt hears nothing of its QEMU, but the driver can recover it.
    :ivar listens: False where no connection could be opened, or the one there was has broken: what its QEMU says meanwhile
        is not heard.  A daemon that hangs listens.
    """

    side: Side
    half: Half
    status: str | None = None
    stats: Stats | None = None
    obstacle: str = ""
    run_state: str = ""
    qemu: int = 0
    stands_still: bool = False
    listens: bool = True


@dataclass(frozen=True)
class PauseRefused(Event):
    """QEMU did not break the migration."""

    message: str


@dataclass(frozen=True)
class Remarked(Event):
    """The operator should know of something, whatever the migration does.

    :ivar text: One line.
    """

    text: str


@dataclass(frozen=True)
class Finished(Event):
    """libvirt's final statistics (``JOB_COMPLETED``)."""

    stats: Stats


@dataclass(frozen=True)
class Ended(Event):
    """A call is over, and with the last one the operation as a whole: it returned, or was never made.

    :ivar error: What libvirt said; None on success.
    :ivar was_sent: The call was made, so something may have been started.
    :ivar here: What a look at the source found afterwards.
    :ivar there: What a look at the destination found; unknown also where it may have been the wrong host.
    :ivar qemu: The version of the source's QEMU, as its daemon had said before the call; 0 where unknown.
    :ivar call: The ``Resume`` that it belongs to, by the number of its attempt; 0 is the first migrate call.  None is the
        last one, where there is never another under way.
    """

    error: str | None = None
    was_sent: bool = True
    here: Half = Half.UNKNOWN
    there: Half = Half.UNKNOWN
    qemu: int = 0
    call: int | None = None
