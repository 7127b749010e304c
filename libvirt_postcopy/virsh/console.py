"""virsh's shell on a terminal.

The lines are read by a readline of ours, with virsh's history, prompt and completion.  virsh runs on a terminal of
its own behind ours: a line of virsh's is typed at that, and everything is passed on, both ways, until virsh waits
for the next line.  So a command has a terminal, whatever it does with it: ``console``, ``edit``, passwords, Ctrl-C.

What is typed while a command runs that does not read it stays in our terminal for the next line, as it would stay
in virsh's: a line of ours must not get to virsh.

Source: libvirt ``tools/virsh.c`` ``main`` (9.0.0).
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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn, Optional

from libvirt_postcopy.virsh.batch import Runner
from libvirt_postcopy.virsh.grammar import CommandLine
from libvirt_postcopy.virsh.line_editor import (
    completion,
    history,
    use_bracketed_paste,
)
from libvirt_postcopy.virsh.reader import Reader
from libvirt_postcopy.virsh.real import end_by, start_virsh
from libvirt_postcopy.virsh.screen import Screen
from libvirt_postcopy.virsh.shell import Shell
from libvirt_postcopy.virsh.strings import split

__all__ = ["run"]

_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"
"""readline's "bracketed paste"."""

_PROMPTS = tuple(
    paste + prompt
    for paste in (b"", _PASTE_ON)
    for prompt in (b"virsh # ", b"virsh > ")
)

_LONGEST_PROMPT = max(map(len, _PROMPTS))

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
"""Steers readline, unless Ctrl-V comes before it."""

_MOMENT_MS = 100
"""How often it is looked at who reads, and how large the terminal is."""

_PROMPT_S = 1.0
"""After so much silence no prompt is to come that we would know."""

_BLIND_S, _BLIND_START_S = 0.1, 1.0
"""Where it cannot be seen who reads, how long virsh may take, with a command and to start, before what is typed is for it."""


def run(line: CommandLine, ours: Runner) -> int:
    """Be virsh's shell.

    :return: virsh's exit status.
    :raises UsageError: If there is no virsh.
    """
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    console = _Console(line, ours)
    use_bracketed_paste()
    ending = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), _end)
    try:
        with _handling(ending), history(), completion(lambda: console.likely):
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


class _Stopped(BaseException):  # noqa: N818 - like KeyboardInterrupt
    """Ctrl-Z was pressed at the prompt.

    :ivar text: What had been typed there.
    """

    def __init__(self, text: str) -> None:
        self.text = text


_Handler = Callable[[int, Optional[FrameType]], Any]


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """What would end virsh ends us in order: the terminal is as it was."""
    raise _Ended(number)


@contextmanager
def _handling(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    """Handle signals, unless we were started with them ignored."""
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, before[number])


class _Console(Shell):
    """A virsh at a terminal of its own."""

    def __init__(self, line: CommandLine, ours: Runner) -> None:
        super().__init__(line, ours)
        self._screen = Screen()
        self._typed = b""  # and not yet passed on
        self._terminal, theirs = os.openpty()
        os.set_blocking(self._terminal, False)
        self._copy_size()
        try:
            termios.tcsetattr(theirs, termios.TCSANOW, self._screen.before)
            self._usual = _manners(theirs)
            self.child = start_virsh(line.given, terminal=os.ttyname(theirs))
            self._reader = Reader(self.child, os.fstat(theirs))
        finally:
            os.close(theirs)
        self._shown = self.prompt
        # As virsh's readline shows it where ours has shown it:
        self._end_of_file = b""
        self._end_of_line = b"\n"
        self._is_starting = True
        self._is_typing = False

    def interact(self) -> None:
        """Read lines, and have them run, until there are no more or virsh has ended."""
        goes_on = self._pass_on()
        while goes_on:
            try:
                text = self._read_line()
            except EOFError:
                self._type(b"\x04")
                goes_on = self._pass_on(self._end_of_file)
                continue
            if text:
                readline.add_history(text)
            goes_on = self._take(text)

    def end(self) -> int:
        """Wait for virsh's end."""
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    def _read_line(self) -> str:
        """Read a line; who is stopped at it goes on with it."""
        begun = ""
        handlers: Mapping[signal.Signals, _Handler] = {
            signal.SIGQUIT: _end,
            signal.SIGTSTP: self._stop_typing,
        }
        try:
            while True:
                readline.set_startup_hook(partial(readline.insert_text, begun))
                try:
                    with _handling(handlers):
                        return self._input()
                except _Stopped as stopped:
                    begun = stopped.text
                    self._stop()
        finally:
            readline.set_startup_hook()

    def _input(self) -> str:
        """Read a line; Ctrl-Z leaves it."""
        self._is_typing = True
        try:
            return input(self._shown)
        finally:
            self._is_typing = False

    def _stop_typing(self, number: int, frame: FrameType | None) -> None:
        """Leave readline to stop; just before it and after it stop at once, so that the line is not lost."""
        if not self._is_typing:
            return self._stop()
        self._is_typing = False
        raise _Stopped(readline.get_line_buffer())

    def _stop(self) -> None:
        """Stop as programs do that know nothing of it, and virsh with us, until we are let go on."""
        self._signal_all(signal.SIGSTOP)
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            signal.raise_signal(signal.SIGTSTP)
        finally:  # who is stopped can be told to end
            signal.signal(signal.SIGTSTP, before)
            self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        """Send it to virsh, and to what that runs."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, number)

    def _take(self, text: str) -> bool:
        commands = split(text)
        line = os.fsencode(text)
        if self._has_ours(commands):
            return self._run(line, commands)
        return self._feed(line, commands)

    def _line(self, string: str) -> bytes:
        return os.fsencode(string)

    def _begin(self, text: bytes) -> None:
        """It is on the terminal already."""

    def _end(self) -> None:
        """The prompt comes with the next line."""

    def _give(self, text: bytes) -> bool:
        """Type it; what readline shows of it has been on the terminal already."""
        self._screen.show(self._read())  # what has come meanwhile
        self._copy_size()
        self._type(_CONTROL.sub(b"\x16\\g<0>", text.strip(b"\n")))
        self._type(b"\r")
        return self._pass_on(self._end_of_line)

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

        What is typed is left for our readline, as long as nobody else reads it.

        :param skipped_to: The end of what is not to be shown.
        :return: False if virsh has ended.
        """
        held = b""
        began = heard = time.monotonic()
        handlers: Mapping[signal.Signals, _Handler] = {
            signal.SIGINT: self._interrupt,
            signal.SIGQUIT: _end,
            signal.SIGTSTP: self._stop_passing,
        }
        with self._listening(), _handling(handlers):
            while True:
                listens = self._is_read(began=began, heard=heard)
                self._screen.pass_keys(listens)
                ready = self._wait(listens=listens)
                if 0 in ready:
                    self._read_typed()
                self._pass_typed()
                if ready.get(self._terminal, 0) & ~select.POLLOUT:
                    more = self._read()
                    if not more:
                        self._screen.show(held)
                        return False
                    heard = time.monotonic()
                    held += more
                    if skipped_to:
                        _, found, held = held.partition(skipped_to)
                        skipped_to = b"" if found else skipped_to
                held = self._show(held, is_quiet=not ready)
                if held in _PROMPTS and not self._typed and self._waits():
                    self._note_prompt(held)
                    return True

    def _note_prompt(self, text: bytes) -> None:
        self._is_starting = False
        self._shown = text[-len(self.prompt) :].decode()
        if text.startswith(_PASTE_ON):
            self._end_of_line = _PASTE_OFF + b"\r"
            self._end_of_file = _PASTE_OFF + b"\r\r\n"

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Leave our terminal as it was; that it is gone is as good as the signal that tells it."""
        try:
            yield
        except termios.error:
            raise _Ended(signal.SIGHUP) from None
        finally:
            self._screen.restore()

    def _show(self, text: bytes, *, is_quiet: bool) -> bytes:
        """Show it; keep what may be the prompt, or the beginning of one.

        :param is_quiet: Nothing has come for a moment.
        """
        kept = b""
        if not is_quiet or text in _PROMPTS:
            for at in range(max(len(text) - _LONGEST_PROMPT, 0), len(text)):
                if any(each.startswith(text[at:]) for each in (*_PROMPTS, b"\r\n")):
                    kept = text[at:]
                    break
        self._screen.show(text[: len(text) - len(kept)])
        return kept

    def _is_read(self, *, began: float, heard: float) -> bool:
        """Whether virsh's command, or a program that it runs, may want what is typed.

        :param began: When virsh was given its line.
        :param heard: When anything has come of it.
        """
        now = time.monotonic()
        # As a rule virsh is taking the line then, or about to print the prompt.
        is_readlines = self._waits() and now - heard < _PROMPT_S
        if _manners(self._terminal) != self._usual and not is_readlines:
            return True
        try:
            return self._reader.has_guest() or self._reader.reads()
        except OSError:  # it cannot be seen
            patience_s = _BLIND_START_S if self._is_starting else _BLIND_S
            return now - began > patience_s

    def _wait(self, *, listens: bool) -> dict[int, int]:
        """Wait until there is something to be passed on, or a moment.

        :param listens: To what is typed, as soon as all that was typed before has been passed on.
        """
        wait = select.poll()
        writes = select.POLLOUT if self._typed else 0
        wait.register(self._terminal, select.POLLIN | writes)
        # That it is gone is told in any case.
        wait.register(0, select.POLLIN if listens and not self._typed else 0)
        ready = dict(wait.poll(_MOMENT_MS))
        self._copy_size()
        return ready

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C where nobody reads it: our terminal has shown it, virsh's command is to have it."""
        self._signal_all(signal.SIGINT)

    def _read_typed(self) -> None:
        typed = b""
        with suppress(OSError):
            typed = os.read(0, 4096)
        if not typed:  # the terminal is gone
            raise _Ended(signal.SIGHUP)
        key = termios.tcgetattr(self._terminal)[6][termios.VSUSP]
        if key != b"\0" and key in typed and self._makes_signals():
            self._stop_group()
            typed = typed.rpartition(key)[2]  # a terminal drops the rest too
        self._typed = typed

    def _pass_typed(self) -> None:
        """Pass on as much of it as virsh's terminal takes by now."""
        if self._typed:
            with suppress(OSError):  # it is full, or virsh has ended
                self._typed = self._typed[os.write(self._terminal, self._typed) :]

    def _stop_group(self) -> None:
        """Do what the terminal does on Ctrl-Z, where it is not raw."""
        before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        os.kill(0, signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        if before is not signal.SIG_IGN:
            self._stop_passing()

    def _stop_passing(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop in the midst of a command, with the terminal as it was."""
        was_passing = self._screen.is_passing
        self._screen.restore()
        self._stop()
        self._screen.pass_keys(was_passing)

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
        return is_raw and self._makes_signals()

    def _makes_signals(self) -> bool:
        """Whether Ctrl-C and the like are signals to who has virsh's terminal, and no letters."""
        return bool(termios.tcgetattr(self._terminal)[3] & termios.ISIG)

    def _copy_size(self) -> None:
        """Their terminal is as large as ours."""
        with suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            if size != fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(8)):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)


def _manners(terminal: int) -> tuple[int, bytes]:
    """What a program changes that reads keys: whether lines are put together, shown, and Ctrl-C is a signal."""
    *_, local, _, _, keys = termios.tcgetattr(terminal)
    flags = termios.ICANON | termios.ECHO | termios.ISIG
    return local & flags, keys[termios.VINTR]
