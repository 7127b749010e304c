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
import shlex
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Optional

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.batch import Runner
from libvirt_postcopy.virsh.complete import candidates
from libvirt_postcopy.virsh.grammar import CommandLine
from libvirt_postcopy.virsh.real import end_by, start_virsh
from libvirt_postcopy.virsh.shell import Shell
from libvirt_postcopy.virsh.strings import Command, split

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

_MOMENTS_OF_START = 10
"""So many moments virsh may be silent when it starts, before what is typed is for whoever asks for a password."""

_LATEST_S = 1.0
"""When what is typed is for virsh's command also where that prints without a pause: Ctrl-C must reach it."""

_MOMENT_MS = 100
"""How long virsh may take before what is typed is for its command, and how often the size of the terminal is looked at."""


def run(line: CommandLine, ours: Runner) -> int:
    """Be virsh's shell.

    :return: virsh's exit status.
    :raises UsageError: If there is no virsh.
    """
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    console = _Console(line, ours)
    # Else each line of what is pasted is run at once; Python turns it off.
    readline.parse_and_bind("set enable-bracketed-paste on")
    ending = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), _end)
    try:
        with _handling(ending), _history(), _completion(console):
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


def _stop_typing(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(readline.get_line_buffer())


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
        self._before = termios.tcgetattr(0)
        self._typed = b""  # and not yet passed on
        self._terminal, theirs = os.openpty()
        os.set_blocking(self._terminal, False)
        self._copy_size()
        try:
            termios.tcsetattr(theirs, termios.TCSANOW, self._before)
            self.child = start_virsh(line.given, terminal=os.ttyname(theirs))
        finally:
            os.close(theirs)
        self._shown = self.prompt
        self._end_of_file = b""  # as virsh's readline shows it and ours has shown it
        self._is_starting = True

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
            signal.SIGTSTP: _stop_typing,
        }
        try:
            while True:
                readline.set_startup_hook(partial(readline.insert_text, begun))
                try:
                    with _handling(handlers):
                        return input(self._shown)
                except _Stopped as stopped:
                    begun = stopped.text
                    self._stop()
        finally:
            readline.set_startup_hook()

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
        if "\n" in text:  # has been pasted
            try:
                text = _on_one_line(commands)
            except UsageError as error:
                return self._refuse(b"", error)
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
        latest = time.monotonic() + _LATEST_S
        handlers: Mapping[signal.Signals, _Handler] = {
            signal.SIGQUIT: _end,
            signal.SIGTSTP: self._stop_passing,
        }
        with _raw(), _handling(handlers):
            while True:
                is_late = moments <= 0 or time.monotonic() >= latest
                ready = self._wait(listens=is_late)
                moments -= not ready
                if 0 in ready:
                    self._read_typed()
                self._pass_typed()
                if ready.get(self._terminal, 0) & ~select.POLLOUT:
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
                if held in _PROMPTS and not self._typed and self._waits():
                    self._shown = held[-len(self.prompt) :].decode()
                    if held.startswith(_PASTE_ON):
                        self._end_of_file = _PASTE_OFF + b"\r\r\n"
                    self._is_starting = False
                    return True

    def _wait(self, *, listens: bool) -> dict[int, int]:
        """Wait until there is something to be passed on, or a moment.

        :param listens: To what is typed, as soon as all that was typed before has been passed on.
        """
        wait = select.poll()
        writes = select.POLLOUT if self._typed else 0
        wait.register(self._terminal, select.POLLIN | writes)
        if listens and not self._typed:
            wait.register(0, select.POLLIN)
        ready = dict(wait.poll(_MOMENT_MS))
        self._copy_size()
        return ready

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
        now = termios.tcgetattr(0)
        termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        self._stop()
        termios.tcsetattr(0, termios.TCSADRAIN, now)

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
    try:
        before = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSADRAIN)
    except termios.error:  # it is gone
        raise _Ended(signal.SIGHUP) from None
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _on_one_line(commands: Sequence[Command]) -> str:
    """Say the same without line breaks, each of which would end the line that is typed at virsh.

    :raises UsageError: If it cannot be read, or not be said so.
    """
    if commands[-1].error is not None:
        raise commands[-1].error
    if any("\n" in word for each in commands for word in each.words):
        raise UsageError("a word of what was pasted goes over the end of its line")
    # The shell's quotes are virsh's too.
    return "; ".join(shlex.join(each.words) for each in commands if each.words)


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
def _completion(shell: Shell) -> Iterator[None]:
    found: list[str] = []

    def complete(word: str, state: int) -> str | None:
        if state == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()]
            words = [*split(before)[-1].words, word]
            found[:] = candidates(words, shell.likely.given)
            if len(found) == 1 and not found[0].endswith(":"):
                found[0] += " "  # as readline does if it is not Python's
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n`@$><=;|&{(")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    yield
    readline.set_completer(None)
