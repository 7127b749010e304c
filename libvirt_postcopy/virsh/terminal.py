"""What is printed, and that it can do no harm: nobody's terminal is steered by what a peer sends."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TextIO

from libvirt_postcopy.programs import printable

__all__ = ["Terminal"]


class Terminal:
    """Standard output and standard error, with at most one line being rewritten on the latter.

    :param log: A file that gets the errors too, as virsh writes it; empty for none.

    Neither being closed nor being full stops a migration: what cannot be printed is dropped.
    """

    def __init__(self, out: TextIO, err: TextIO, log: str = "") -> None:
        self._out = out
        self._err = err
        self._log = log and os.path.abspath(log)  # the shell's "cd" moves us
        self._shown = 0  # width of the line that is being rewritten

    @property
    def is_interactive(self) -> bool:
        """Whether somebody looks at standard error, so that a line can be rewritten."""
        try:
            return self._err.isatty()
        except ValueError:  # closed
            return False

    @property
    def columns(self) -> int:
        """How long a line that is rewritten may be."""
        try:
            return (os.get_terminal_size(self._err.fileno()).columns or 80) - 1
        except (OSError, ValueError):
            return 79

    def print(self, text: str) -> None:
        """Write to standard output as it is."""
        with suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()

    def say(self, text: str) -> None:
        """Write one line to standard error, after standard output as virsh does."""
        with suppress(OSError, ValueError):
            self._out.flush()
        self.end_line()
        self._write(printable(text) + "\n")
        before, _, error = text.partition("error: ")
        if error and not before:
            self._record("ERROR", printable(error))

    def debug(self, kind: str, text: str) -> None:
        """Write one line to standard output, and to the log.

        :param kind: What virsh calls its level there.
        """
        self.end_line()
        self.print(printable(text) + "\n")
        self._record(kind, printable(text))

    def can_log(self) -> bool:
        """Whether the log can be written, if there is to be one."""
        try:
            if self._log:
                os.close(self._open_log())
        except OSError:
            return False
        return True

    def _open_log(self) -> int:
        """Source: libvirt ``tools/vsh.c`` ``vshOpenLogFile`` (9.0.0)."""
        return os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _record(self, kind: str, text: str) -> None:
        """Source: libvirt ``tools/vsh.c`` ``vshOutputLogFile`` (9.0.0)."""
        if not self._log:
            return
        now = time.strftime("%Y.%m.%d %H:%M:%S")
        with suppress(OSError), open(self._open_log(), "a", encoding="utf-8") as file:
            file.write(f"[{now} virsh {os.getpid()}] {kind} {text}\n")

    def rewrite(self, text: str) -> None:
        """Show one line on standard error in the place of the one before; what does not fit is cut off."""
        text = printable(text)[: self.columns]
        self._write("\r" + text.ljust(self._shown))
        self._shown = len(text)

    def interrupt(self) -> None:
        """Begin a new line below the ``^C`` that the terminal has shown."""
        if self.is_interactive:
            self._write("\n")
            self._shown = 0

    def end_line(self) -> None:
        """Leave the line that is being rewritten as it is."""
        if self._shown:
            self._write("\n")
            self._shown = 0

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._err.write(text)
            self._err.flush()
