"""A shell of virsh in which some of the lines are ours.

One real virsh runs its own lines; a line of ours is kept from it, and run by us when virsh has done all that came
before and waits for more.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce

from libvirt_postcopy.errors import PostcopyBroken, PostcopyError, UsageError
from libvirt_postcopy.virsh.batch import (
    Connection,
    Runner,
    cannot_read,
    stretches,
)
from libvirt_postcopy.virsh.grammar import CommandLine
from libvirt_postcopy.virsh.guard import is_resume, refuse_crash
from libvirt_postcopy.virsh.strings import Command

__all__ = ["Shell"]


class Shell(ABC):
    """Who runs which part of a line, and with which connection.

    :ivar child: virsh's process.
    """

    child: int

    def __init__(self, line: CommandLine, ours: Runner) -> None:
        self._ours = ours
        self._now = Connection(line.options, line.given)
        self._untold: list[Sequence[str]] = []  # of "connect", whether it went well

    @abstractmethod
    def _give(self, text: bytes) -> bool:
        """Give virsh a line, and wait until it has been run; false if virsh has ended."""

    @abstractmethod
    def _begin(self, text: bytes) -> None:
        """Show what readline would, of a line that virsh is not given."""

    @abstractmethod
    def _end(self) -> None:
        """Show that virsh waits for the next."""

    @abstractmethod
    def _line(self, string: str) -> bytes:
        """What virsh is given for a part of a line."""

    @property
    def prompt(self) -> str:
        """What virsh waits behind, as far as we know."""
        return "virsh > " if self._now.options.is_readonly else "virsh # "

    @property
    def likely(self) -> Connection:
        """Which connection virsh has, if each ``connect`` has gone well that we have not looked into."""
        return reduce(Connection.after, self._untold, self._now)

    def _has_ours(self, commands: Sequence[Command]) -> bool:
        return any(self._ours.claims(command.words) for command in commands)

    def _feed(self, text: bytes, commands: Sequence[Command]) -> bool:
        """Give virsh a line that is all its own, unless it must not have it.

        :return: False if virsh has ended.
        """
        try:
            self._refuse_crash(commands)
        except PostcopyBroken as error:
            return self._refuse(text, error)
        return self._hand_on(text, commands)

    def _refuse_crash(self, commands: Sequence[Command]) -> None:
        resumes = [each.words for each in commands if is_resume(each.words)]
        if resumes:
            self._settle()  # the refusal names the connection
            refuse_crash(resumes, self._now.options)

    def _refuse(self, text: bytes, error: PostcopyError) -> bool:
        """Say why nothing of a line is run."""
        self._begin(text)
        self._ours.complain([str(error)])
        self._end()
        return True

    def _hand_on(self, text: bytes, commands: Sequence[Command]) -> bool:
        self._untold += [
            each.words for each in commands if each.words[:1] == ("connect",)
        ]
        return self._give(text)

    def _run(self, text: bytes, commands: Sequence[Command]) -> bool:
        """Run a line that has something of ours; each stretch of virsh's is a line to it.

        :return: False if virsh has ended.
        """
        try:
            self._refuse_crash(commands)
            unreadable = cannot_read(commands, self._now.given, self._ours)
        except (PostcopyBroken, UsageError) as error:
            return self._refuse(text, error)
        if unreadable:
            return self._hand_on(self._line(unreadable), ())
        for is_ours, stretch in stretches(commands, self._ours):
            string = "".join(command.text for command in stretch)
            if not is_ours:
                if not self._hand_on(self._line(string), stretch):
                    return False
                continue
            self._begin(os.fsencode(string))
            for command in stretch:
                self._run_ours(command)
            self._end()
        return True

    def _run_ours(self, command: Command) -> None:
        self._settle()
        with suppress(OSError):  # for the files that a command names
            os.chdir(f"/proc/{self.child}/cwd")
        self._ours.run(command.words, self._now)
        self._ours.after()

    def _settle(self) -> None:
        """Find out which connection virsh has by now: one that we cannot open it has not opened either."""
        for words in self._untold:
            then = self._now.after(words)
            if then == self._now or self._ours.can_connect(then.options):
                self._now = then
        self._untold.clear()
