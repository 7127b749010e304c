"""virsh's shell on a terminal.

The lines are read by a readline of ours, with virsh's history, prompt and completion.  virsh runs on a terminal of
its own behind ours: a line of virsh's is typed at that, and everything is passed on, both ways, until virsh waits
for the next line.  So a command has a terminal, whatever it does with it: ``console``, ``edit``, passwords, Ctrl-C.

Source: libvirt ``tools/vsh.c`` ``vshReadlineInit``, ``vshReadlineDeinit``, ``tools/virsh.c`` ``main`` (9.0.0).
"""

from __future__ import annotations

import fcntl
import os
import re
import readline
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from libvirt_postcopy.virsh.batch import Runner
from libvirt_postcopy.virsh.complete import candidates
from libvirt_postcopy.virsh.grammar import CommandLine
from libvirt_postcopy.virsh.real import end_by, start_virsh
from libvirt_postcopy.virsh.shell import Shell
from libvirt_postcopy.virsh.strings import split

__all__ = ["run"]

_PROMPTS = tuple(
    paste + prompt
    for paste in (b"", b"\x1b[?2004h")  # readline's "bracketed paste"
    for prompt in (b"virsh # ", b"virsh > ")
)

_LONGEST_PROMPT = max(map(len, _PROMPTS))

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
"""Steers readline, unless Ctrl-V comes before it."""

_MOMENTS_OF_START = 10
"""So many moments virsh may be silent when it starts, before what is typed is for whoever asks for a password."""

_MOMENT_MS = 100
"""How long virsh may take before what is typed is for its command, and how often the size of the terminal is looked at."""


def run(line: CommandLine, ours: Runner) -> int:
    """Be virsh's shell.

    :return: virsh's exit status.
    :raises UsageError: If there is no virsh.
    """
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    console = _Console(line, ours)
    try:
        with _raising_signals(), _history(), _completion(line):
            console.interact()
            status = console.end()
    except _Ended as error:
        with suppress(ProcessLookupError):
            os.kill(console.child, error.number)
        end_by(error.number)
    if status < 0:
        end_by(-status)
    return status


class _Ended(BaseException):  # noqa: N818 - like KeyboardInterrupt
    """Somebody wants us to end, by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _raising_signals() -> Iterator[None]:
    """What would end virsh ends us in order: the terminal is as it was."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended(number)

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in caught}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Console(Shell):
    """A virsh at a terminal of its own."""

    def __init__(self, line: CommandLine, ours: Runner) -> None:
        super().__init__(line, ours)
        self._terminal, theirs = os.openpty()
        os.set_blocking(self._terminal, False)
        self._copy_size()
        try:
            self.child = start_virsh(line.given, terminal=os.ttyname(theirs))
        finally:
            os.close(theirs)
        self._shown = self.prompt
        self._is_starting = True

    def interact(self) -> None:
        """Read lines, and have them run, until there are no more or virsh has ended."""
        goes_on = self._pass_on()
        while goes_on:
            try:
                text = input(self._shown)
            except EOFError:
                self._type(b"\x04")
                goes_on = self._pass_on()
                continue
            if text:
                readline.add_history(text)
            goes_on = self._take(text)

    def end(self) -> int:
        """Wait for virsh's end."""
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    def _take(self, text: str) -> bool:
        commands = split(text)
        line = os.fsencode(text)
        if self._has_ours(commands):
            return self._run(line, commands)
        return self._feed(line, commands)

    def _begin(self, text: bytes) -> None:
        """It is on the terminal already."""

    def _end(self) -> None:
        """The prompt comes with the next line."""

    def _give(self, text: bytes) -> bool:
        """Type it; what readline shows of it has been on the terminal already."""
        _write_all(1, self._read())  # what has come meanwhile
        self._copy_size()
        self._type(_CONTROL.sub(b"\x16\\g<0>", text.strip(b"\n")))
        self._type(b"\r")
        return self._pass_on(b"\n")

    def _type(self, text: bytes) -> None:
        """Type it at virsh's terminal, and take no notice of what that shows of it."""
        wait = select.poll()
        wait.register(self._terminal, select.POLLIN | select.POLLOUT)
        while text:
            [(_, ready)] = wait.poll()
            if ready & select.POLLIN:
                self._read()
            elif ready & (select.POLLHUP | select.POLLERR):  # virsh has ended
                break
            if ready & select.POLLOUT:
                with suppress(OSError):  # no room for it yet, whatever poll says
                    text = text[os.write(self._terminal, text[:256]) :]

    def _pass_on(self, skipped_to: bytes = b"") -> bool:
        """Pass everything on, both ways, until virsh waits for a line.

        What is typed ahead is left for our readline, if virsh does not take long.

        :param skipped_to: The end of what is not to be shown.
        :return: False if virsh has ended.
        """
        held = b""
        moments = _MOMENTS_OF_START if self._is_starting else 1
        with _raw():
            while True:
                ready = self._wait(listens=moments <= 0)
                moments -= not ready
                if 0 in ready:
                    self._pass_typed()
                if self._terminal in ready:
                    more = self._read()
                    if not more:
                        _write_all(1, held)
                        return False
                    moments = min(moments, 1)
                    held += more
                    if skipped_to:
                        _, found, held = held.partition(skipped_to)
                        skipped_to = b"" if found else skipped_to
                held = _shown(held, is_quiet=not ready)
                if held in _PROMPTS and self._waits():
                    self._shown = held[-len(self.prompt) :].decode()
                    self._is_starting = False
                    return True

    def _wait(self, *, listens: bool) -> list[int]:
        """Wait until there is something to be passed on, or a moment."""
        wait = select.poll()
        wait.register(self._terminal, select.POLLIN)
        if listens:
            wait.register(0, select.POLLIN)
        ready = [file for file, _ in wait.poll(_MOMENT_MS)]
        self._copy_size()
        return ready

    def _pass_typed(self) -> None:
        typed = b""
        with suppress(OSError):
            typed = os.read(0, 4096)
        if not typed:  # the terminal is gone
            raise _Ended(signal.SIGHUP)
        with suppress(
            BlockingIOError
        ):  # nobody reads, and a terminal keeps only so much
            os.write(self._terminal, typed)

    def _read(self) -> bytes:
        """Read what virsh shows; nothing if there is nothing, or if it has ended."""
        try:
            return os.read(self._terminal, 65536)
        except OSError:
            return b""

    def _waits(self) -> bool:
        """Whether readline has the terminal: letters as they come, but signals still made of Ctrl-C."""
        local = termios.tcgetattr(self._terminal)[3]
        is_raw = not local & (termios.ICANON | termios.ECHO)
        return is_raw and bool(local & termios.ISIG)

    def _copy_size(self) -> None:
        """Their terminal is as large as ours."""
        with suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            if size != fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(8)):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)


def _shown(text: bytes, *, is_quiet: bool) -> bytes:
    """Show it; keep what may be the prompt, or the beginning of one.

    :param is_quiet: Nothing has come for a moment.
    """
    kept = b""
    if not is_quiet or text in _PROMPTS:
        for at in range(max(len(text) - _LONGEST_PROMPT, 0), len(text)):
            if any(prompt.startswith(text[at:]) for prompt in _PROMPTS):
                kept = text[at:]
                break
    _write_all(1, text[: len(text) - len(kept)])
    return kept


@contextmanager
def _raw() -> Iterator[None]:
    """Let the terminal behind ours do what terminals do."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write_all(file: int, text: bytes) -> None:
    with suppress(OSError):
        while text:
            text = text[os.write(file, text) :]


# What readline is to virsh

_LONGEST, _USUAL = 500_000, 500
"""Lines of history that virsh keeps at most, and if it is not told."""


@contextmanager
def _history() -> Iterator[None]:
    """Have virsh's history, and leave it with what has come."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = folder / "libvirt" / "virsh" / "history"
    readline.set_auto_history(False)
    with suppress(OSError):
        readline.read_history_file(file)
    yield
    text = os.environ.get("VIRSH_HISTSIZE", "")
    length = int(text) if text.isascii() and text.isdigit() else _USUAL
    readline.set_history_length(min(length, _LONGEST))
    with suppress(OSError):
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        readline.write_history_file(file)


@contextmanager
def _completion(line: CommandLine) -> Iterator[None]:
    found: list[str] = []

    def complete(word: str, state: int) -> str | None:
        if state == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()]
            found[:] = candidates([*split(before)[-1].words, word], line.given)
            if len(found) == 1 and not found[0].endswith(":"):
                found[0] += " "  # as readline does if it is not Python's
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n`@$><=;|&{(")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    yield
    readline.set_completer(None)
