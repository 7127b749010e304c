"""A migration that is only watched: the core decides as ever, and what it would send is said instead."""

from __future__ import annotations

from libvirt_postcopy.actions import (
    Action,
    Look,
    Note,
    Pause,
    ReadStats,
    Resume,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.events import Event
from libvirt_postcopy.migration import Migration

__all__ = ["Shadow"]

_HARMLESS = (Look, Note, ReadStats, VerifySwitch)


class Shadow(Migration):
    """Asks for nothing but looks and readings."""

    def hasten(self, event: Event, now: float) -> None:
        """Nothing is sent."""

    def feed(self, event: Event, now: float) -> list[Action]:
        """Take an event into account; see :meth:`Migration.feed`."""
        return self._only_said(super().feed(event, now), now)

    def tick(self, now: float) -> list[Action]:
        """Do what has become due; see :meth:`Migration.tick`."""
        return self._only_said(super().tick(now), now)

    def _only_said(self, actions: list[Action], now: float) -> list[Action]:
        said: list[Action] = []
        for action in actions:
            if isinstance(action, _HARMLESS):
                said.append(action)
            else:
                said += self._would(action, now)
        return said

    def _would(self, action: Action, now: float) -> list[Action]:
        if isinstance(action, Switch):
            # Its reason must not be taken for that of a switch by somebody else.
            self._switch, self._is_switch_out = None, False
            self._cannot_switch = "this migration is only watched: nothing is sent"
            return [Note(f"would switch to post-copy: {action.reason}")]
        if isinstance(action, Resume):
            self._recovery.begin(now)
            is_first = action.attempt == 1
            return [Note("would resume the migration")] if is_first else []
        if isinstance(action, Pause):
            return [Note("would make QEMU notice the break")]
        return [Note(f"would do this: {action}")]
