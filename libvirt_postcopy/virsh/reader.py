"""Whether a virsh, or what it has started, reads the file by which we talk to it.

The kernel tells which call a process's main thread waits in, and with what.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

__all__ = ["Reader"]

_PAGE = 4096
"""No pointer is below, and no file's number above."""

_OWN_TERMINAL = os.makedev(5, 0)
"""``/dev/tty``, by which programs ask past their standard input."""

_AGENT = "pkttyagent"
"""Polkit's, which virsh starts to connect, has virsh's standard input and does not read it."""


class Reader:
    """Who may read a file.

    :param process: virsh.
    :param file: Its standard input.
    """

    def __init__(self, process: int, file: os.stat_result) -> None:
        self._process = process
        self._file = file

    def reads(self) -> bool:
        """Whether virsh waits in a ``read`` of it.

        :raises OSError: If that cannot be seen: virsh has ended, Yama forbids it, or the kernel does not tell.
        """
        return self._is_reading(self._process)

    def selects(self) -> bool:
        """Whether virsh waits as readline does: in ``pselect``, for file 0 alone and without an end.

        :raises OSError: As :meth:`reads`.
        """
        call = _call_of(self._process)
        return bool(call) and call[0] == 1 and call[1] > _PAGE and not any(call[2:])

    def has_guest(self) -> bool:
        """Whether virsh runs a program that may read it, as ``edit`` does."""
        main = f"/proc/{self._process}/task/{self._process}/children"
        with suppress(OSError), open(main, encoding="ascii") as file:
            return any(self._is_guest(int(child)) for child in file.read().split())
        return False

    def _is_guest(self, child: int) -> bool:
        try:
            # Until it has become a program of its own, it has all that virsh has.
            if os.path.samefile(f"/proc/{child}/exe", f"/proc/{self._process}/exe"):
                return False
            has_it = self._is_it(child, 0) and _name_of(child) != _AGENT
            return has_it or self._is_reading(child)
        except OSError:  # it has ended, or cannot be seen
            return False

    def _is_reading(self, process: int) -> bool:
        """The numbers of calls differ from machine to machine, the shape of this one does not."""
        call = _call_of(process)
        if not call:
            return False
        number, buffer, length = call[:3]
        return buffer > _PAGE and length > 0 and self._is_it(process, number)

    def _is_it(self, process: int, number: int) -> bool:
        try:
            there = os.stat(f"/proc/{process}/fd/{number}")
        except OSError:
            return False
        is_terminal = stat.S_ISCHR(self._file.st_mode)
        if is_terminal and there.st_rdev == _OWN_TERMINAL:
            return True
        return os.path.samestat(there, self._file)


def _name_of(process: int) -> str:
    with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")


def _call_of(process: int) -> tuple[int, ...]:
    """Five arguments of the system call that it waits in; empty if it runs."""
    with open(f"/proc/{process}/syscall", encoding="ascii") as file:
        words = file.read().split()
    return tuple(int(word, 16) for word in words[1:6]) if len(words) >= 6 else ()
