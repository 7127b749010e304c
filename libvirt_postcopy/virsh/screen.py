"""Our terminal while virsh has one of its own behind it."""

from __future__ import annotations

import os
import termios
import tty
from contextlib import suppress

__all__ = ["Screen", "write_all"]


class Screen:
    """What is typed is passed on letter by letter where somebody reads it, and else kept by our terminal for later.

    While it keeps it our terminal is as it was: it shows what is typed, puts lines together and makes signals, as it does for
    a virsh that runs a command.

    :ivar before: How it was.
    :raises termios.error: If it is gone.
    """

    def __init__(self) -> None:
        self.before = termios.tcgetattr(0)
        self.is_passing = False
        flags = termios.OPOST | termios.ONLCR
        self._adds_returns = self.before[1] & flags == flags

    def pass_keys(self, is_passing: bool) -> None:
        """Begin to pass on what is typed, or to keep it.

        :raises termios.error: If the terminal is gone.
        """
        if is_passing is self.is_passing:
            return
        if is_passing:
            tty.setraw(0, termios.TCSADRAIN)
        else:
            termios.tcsetattr(0, termios.TCSADRAIN, self.before)
        self.is_passing = is_passing

    def restore(self) -> None:
        """Leave it as it was, if it is there."""
        with suppress(termios.error):
            self.pass_keys(False)

    def show(self, text: bytes) -> None:
        """Show what has come from virsh's terminal, which has ended each line with a carriage return already."""
        if self._adds_returns and not self.is_passing:
            text = text.replace(b"\r\n", b"\n")
        write_all(1, text)


def write_all(file: int, text: bytes) -> None:
    """Write, to who is there to read it."""
    with suppress(OSError):
        while text:
            text = text[os.write(file, text) :]
