"""What the core asks for.  A driver carries actions out and feeds back what came of them."""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.events import Side

__all__ = [
    "Action",
    "ReadStats",
    "Switch",
    "VerifySwitch",
    "Abort",
    "Look",
    "Pause",
    "Resume",
    "Note",
]


class Action:
    """Base of all actions."""


@dataclass(frozen=True)
class ReadStats(Action):
    """Read the source's statistics and state; answer with ``StatsSeen``."""


@dataclass(frozen=True)
class Switch(Action):
    """Send ``migrate-start-postcopy``.

    Answer with ``SwitchAccepted``, ``SwitchRefused``, ``SwitchUnanswered`` or ``SwitchHeld``.

    :ivar attempt: One more than have been sent; the same again after one that was held back.
    """

    reason: str
    attempt: int


@dataclass(frozen=True)
class VerifySwitch(Action):
    """Look whether the source is in post-copy; answer with ``SplitSeen`` or ``SwitchNotSeen``."""


@dataclass(frozen=True)
class Abort(Action):
    """Abort the migration job.  Only ever asked for while the guest runs on the source."""


@dataclass(frozen=True)
class Look(Action):
    """Look at the domain on one host, over a new connection if need be; answer with ``Looked``."""

    side: Side


@dataclass(frozen=True)
class Pause(Action):
    """Make QEMU break a migration that is split (``migrate-pause``); answer with ``PauseRefused`` if it cannot."""


@dataclass(frozen=True)
class Resume(Action):
    """Resume a migration that is paused on both hosts; leads to another ``Ended``.

    :ivar attempt: Counts from 1, each number once: a call may be left to itself, and end after a later one has begun.
    """

    attempt: int


@dataclass(frozen=True)
class Note(Action):
    """Something that the operator should know, in one line."""

    text: str
