"""virsh's shell where it reads no terminal: a file or a program feeds it commands on standard input.

Source: libvirt ``tools/virsh.c`` ``main``, ``tools/vsh.c`` ``vshReadline`` (9.0.0).
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.batch import Runner
from libvirt_postcopy.virsh.grammar import CommandLine
from libvirt_postcopy.virsh.reader import Reader
from libvirt_postcopy.virsh.real import end_by, passing_signals_to, start_virsh
from libvirt_postcopy.virsh.shell import Shell
from libvirt_postcopy.virsh.strings import Command, split

__all__ = ["run"]


def run(line: CommandLine, ours: Runner) -> int:
    """Feed the real virsh, and run what is ours.

    :return: virsh's exit status, which is 0 whatever its commands came to.
    :raises UsageError: If there is no virsh.
    """
    shell = _Fed(line, ours)
    with passing_signals_to(shell.child):
        for text in _lines(0, shell.child):
            if not shell.take(text):
                break
        status = shell.end()
    if status < 0:
        end_by(-status)
    return status


def _lines(file: int, child: int) -> Iterator[bytes]:
    """Read lines with what ends them; not a byte more than virsh would, since others may read the rest.

    A carriage return ends a line to readline too.

    :param child: virsh: when it has ended there is nobody to read for.
    """
    line = bytearray()
    for char in _bytes(file, child):
        line += char
        if char in b"\r\n":
            yield bytes(line)
            line.clear()
    if line:
        yield bytes(line)


def _bytes(file: int, child: int) -> Iterator[bytes]:
    wait = select.poll()
    wait.register(file, select.POLLIN)
    with suppress(AttributeError, OSError):  # Linux < 5.3
        wait.register(os.pidfd_open(child), select.POLLIN)
    while any(ready == file for ready, _ in wait.poll()):
        for _ in range(max(_waiting_in(file), 1)):
            char = os.read(file, 1)
            if not char:
                return
            yield char


def _waiting_in(file: int) -> int:
    """How many bytes can be read at once."""
    count = array.array("i", [0])
    with suppress(OSError):
        fcntl.ioctl(file, termios.FIONREAD, count)
    return count[0]


class _Fed(Shell):
    """A real virsh that reads a pipe of ours."""

    def __init__(self, line: CommandLine, ours: Runner) -> None:
        super().__init__(line, ours)
        self._ended: int | None = None
        reader, self._pipe = os.pipe()  # only as its standard input does it get one
        try:
            self.child = start_virsh(line.given, stdin=reader)
        finally:
            os.close(reader)
        self._idle = _Idle(self.child, self._pipe)

    def take(self, text: bytes) -> bool:
        """Have one line run, and wait until it has been.

        :return: False if virsh has ended.
        """
        commands = _read(text)
        if not self._has_ours(commands):
            return self._feed(text, commands)
        if self._idle.blindness is not None:
            self._ours.complain([str(self._idle.blindness)])
            return True
        if not self._is_waiting():
            return False
        if self._idle.has_guest():  # the line is not for virsh
            return self._feed(text, ())
        return self._run(text, commands)

    def end(self) -> int:
        """Let virsh see that there is no more, and wait for its end."""
        os.close(self._pipe)
        if self._ended is None:
            self._ended = os.waitpid(self.child, 0)[1]
        return os.waitstatus_to_exitcode(self._ended)

    def _give(self, text: bytes) -> bool:
        try:
            while text:
                text = text[os.write(self._pipe, text[:4096]) :]
        except BrokenPipeError:
            return False
        return self._is_waiting()

    def _is_waiting(self) -> bool:
        """Wait until virsh, or a program that it runs, may wait for a line; false if virsh has ended instead.

        Nothing tells when that is: it is looked for again and again, at first after short times.  Where it cannot
        be seen, virsh gets its lines as they come.
        """
        if self._ended is not None:
            return False
        if self._idle.blindness is not None:
            return True
        pause_s = 0.0002
        while not (self._idle() or self._idle.has_guest()):
            ended, status = os.waitpid(self.child, os.WNOHANG)
            if ended:
                self._ended = status
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
        return True

    def _line(self, string: str) -> bytes:
        """It can have no line break in it; there is one only where nothing is to be run."""
        return os.fsencode(string.strip("\n").replace("\n", ";")) + b"\n"

    def _begin(self, text: bytes) -> None:
        self._is_waiting()
        self._print(text.strip() + b"\n")

    def _end(self) -> None:
        """virsh waits below the prompt that it has printed before; it does not know that there was more."""
        self._print(self.prompt.encode())

    def _print(self, text: bytes) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


def _read(text: bytes) -> list[Command]:
    """What a line asks for; nothing of ours if it has something in it that steers readline."""
    line = os.fsdecode(text.rstrip(b"\r\n")).lstrip(
        "\t"
    )  # asks readline for words of none
    if any(char < " " or char == "\x7f" for char in line):
        return []
    return split(line)


class _Idle:
    """Tells if a virsh waits for us, and has nothing of ours left to be read.

    It is then in readline's ``pselect``, or in a ``read`` of our pipe (a command may be reading it too).

    :ivar blindness: Why it cannot be told; None where it can.
    """

    def __init__(self, child: int, pipe: int) -> None:
        self._pipe = pipe
        self._reader = Reader(child, os.fstat(pipe))
        self.has_guest = self._reader.has_guest
        self.blindness = self._look()

    def _look(self) -> UsageError | None:
        """Yama may forbid to see what a process is doing, and a kernel may not tell it."""
        try:
            self._reader.reads()
        except OSError as error:
            return UsageError(
                f"cannot see what virsh is doing: {error.strerror}",
                cure="give the command as arguments",
            )
        return None

    def __call__(self) -> bool:
        return self._is_empty() and self._waits() and self._is_empty()

    def _is_empty(self) -> bool:
        return not _waiting_in(self._pipe)

    def _waits(self) -> bool:
        try:
            return self._reader.selects() or self._reader.reads()
        except OSError:  # it has ended
            return False
