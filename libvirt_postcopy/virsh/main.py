"""The program ``virsh-postcopy``: takes what is ours, hands the rest to the real virsh.

Most lines never come here: :mod:`virsh_postcopy` is the program's beginning.  Neither libvirt nor anything heavy
is imported before a command line is known to be ours.

Exit status: 0 done; 1 failed, and the guest is where it was, which is virsh's own meaning; 3 the guest is split
and alive, or it cannot be told where it is, which is to be treated the same; 4 the guest is lost.
``--strict-exit`` folds the last two to 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import NoReturn

from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.programs import (
    FAILED,
    error_handler,
    flush_streams,
    load_libvirt,
    open_streams,
)
from libvirt_postcopy.virsh import batch, feed
from libvirt_postcopy.virsh.batch import Connection
from libvirt_postcopy.virsh.debug import Debug, level_of
from libvirt_postcopy.virsh.ending import Ending
from libvirt_postcopy.virsh.grammar import (
    CommandLine,
    Globals,
    HelpWanted,
    MissingError,
    convert,
    parse_globals,
)
from libvirt_postcopy.virsh.guard import refuse_crash
from libvirt_postcopy.virsh.help import (
    group,
    help_text,
    is_for_group,
    is_for_overview,
    overview,
    topic,
)
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.options import option_names
from libvirt_postcopy.virsh.real import exec_virsh, run_virsh
from libvirt_postcopy.virsh.refusals import lines
from libvirt_postcopy.virsh.strings import Command, split
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.verbs import Verb, claims, is_strict_anyway, read

__all__ = ["entry", "main"]

_STATUSES = {"split": 3, "unknown": 3, "lost": 4}

_INTERRUPTED = "interrupted: nothing was started"
"""A ``KeyboardInterrupt`` can only come before :meth:`Signals.catch`, which comes before anything is started."""


def entry() -> NoReturn:
    """Run as a program.

    Ends without Python's finalization: a thread of libvirt's events is alive, others may be inside libvirt, and
    a stream that cannot be flushed would change the exit status.
    """
    status = _main(sys.argv[1:], Signals())
    flush_streams()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    :param argv: Without the program's name.
    :return: The exit status, unless the real virsh takes the process over.
    """
    signals = Signals()
    try:
        return _main(sys.argv[1:] if argv is None else list(argv), signals)
    finally:
        signals.release()


def _main(words: list[str], signals: Signals) -> int:
    line = parse_globals(words)
    if line is None:
        return _report_errors(lambda: exec_virsh(words), None)
    if line.asks_for_usage or is_for_overview(line.words):
        return _report_errors(lambda: _list_all(words), None)
    if not line.words:
        return _report_errors(lambda: _read_commands(words, line, signals), None)
    commands = _commands(line)
    if not any(_is_ours(command.words) for command in commands):
        return _report_errors(lambda: _pass(words, commands, line), None)
    ours = _Ours(signals, line.options)
    ours.complain(line.options.complaints)
    if not ours.terminal.can_log():  # virsh, too, runs nothing then
        ours.complain(["failed to open the log file. check the log file path"])
        return FAILED
    told = _without_complaints(line)
    if len(commands) == 1 and commands[0].error is None:
        if len(line.words) == 1:
            ours.debug.tell_string(line.words[0])
        return ours.run(commands[0].words, Connection(told.options, told.given))
    return _report_errors(lambda: _run_all(commands, told, ours), ours.terminal)


def _without_complaints(line: CommandLine) -> CommandLine:
    """Each virsh that we run would complain again of a debug level that it ignores."""
    if not line.options.complaints:
        return line
    given = tuple(word for word in line.given if not word.startswith("--debug="))
    return replace(line, given=given)


def _run_all(commands: Sequence[Command], line: CommandLine, ours: _Ours) -> int:
    refuse_crash([command.words for command in commands], line.options)
    return batch.run(commands, line, ours)


def _pass(words: list[str], commands: Sequence[Command], line: CommandLine) -> int:
    refuse_crash([command.words for command in commands], line.options)
    return exec_virsh(words)


def _commands(line: CommandLine) -> list[Command]:
    """A single word is a command string."""
    if len(line.words) == 1:
        return split(line.words[0])
    return [Command("", line.words)]


def _is_ours(words: Sequence[str]) -> bool:
    if is_for_overview(words) or is_for_group(words):
        return True
    if tuple(words[:1]) == ("complete",):
        return len(words) > 1
    return topic(words) is not None or claims(words) is not None


def _list_all(words: list[str]) -> int:
    status = run_virsh(words)
    if status == 0:
        open_streams()
        Terminal(sys.stdout, sys.stderr).print(overview())
    return status


def _read_commands(words: list[str], line: CommandLine, signals: Signals) -> int:
    """virsh's shell, in which some lines are ours; not where only a part of it is on a terminal."""
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if sys.stdin is None or (is_terminal and not _is_console_here()):
        exec_virsh(words)
    ours = _Ours(signals, line.options)
    if is_terminal:
        console = import_module("libvirt_postcopy.virsh.console")
        return int(console.run(line, ours))
    return feed.run(line, ours)


def _is_console_here() -> bool:
    try:
        import_module("readline")
    except ImportError:
        return False
    return all(map(os.isatty, range(3)))


def _report_errors(
    run: Callable[[], int], terminal: Terminal | None, *, is_virshs: bool = False
) -> int:
    """Run, and say what is wrong.

    :param is_virshs: In virsh's words where it has some, because it has this command too.
    """
    in_its_words: list[str] = []

    def attempt() -> int:
        try:
            return run()
        except LibvirtError as error:
            in_its_words.extend(lines(error, is_virshs=is_virshs))
            raise

    def report(text: str) -> None:
        open_streams()  # not sooner: the real virsh gets them as they are
        out = terminal or Terminal(sys.stdout, sys.stderr)
        for line in in_its_words or [option_names(text)]:
            out.say(line)

    return error_handler(attempt, report, interrupted=_INTERRUPTED, statuses=_STATUSES)


class _Ours:
    """Runs the commands that are ours; one after the other, where there are several.

    :ivar terminal: Where what they say goes.
    :ivar debug: Where what is told of them goes.
    """

    def __init__(self, signals: Signals, options: Globals) -> None:
        open_streams()
        log = options.log or os.environ.get("VIRSH_LOG_FILE", "")
        self.terminal = Terminal(sys.stdout, sys.stderr, log)
        self.debug = Debug(self.terminal, level_of(options, os.environ))
        self._signals = signals

    def claims(self, words: Sequence[str]) -> bool:
        """Whether a command is ours."""
        return _is_ours(words)

    def complain(self, complaints: Sequence[str]) -> None:
        """Say what virsh says of something that it does not give up for."""
        for complaint in complaints:
            self.terminal.say(f"error: {complaint}")

    def mistake(self, words: Sequence[str]) -> UsageError | None:
        """What is wrong with a command that is ours, as far as can be seen before anything is run."""
        verb = claims(words)
        if verb is None:
            return None
        try:
            read(verb, words)
        except HelpWanted:
            return None
        except UsageError as error:
            return error
        return None

    def run(self, words: Sequence[str], now: Connection) -> int:
        """Run a command that is ours.

        :return: Its exit status.
        """
        options = now.options
        ending = Ending(options, self.terminal.print)
        asked = topic(words)
        if is_for_overview(words):
            return _report_errors(lambda: self._list_all(ending), self.terminal)
        if is_for_group(words):
            return self._print(group(), ending)
        if words[0] == "complete":
            return self._complete(words[1:], options, ending)
        if asked is not None:
            return self._explain(asked, ending)
        verb = claims(words)
        assert verb is not None
        return _report_errors(
            lambda: self._run(verb, words, now, ending), self.terminal
        )

    def can_connect(self, options: Globals) -> bool:
        """Whether a connection can be opened; it is kept for the commands that follow."""
        load_libvirt()
        try:
            import_module("libvirt_postcopy.virsh.daemon").connect(options)
        except LibvirtError:
            return False
        return True

    def after(self) -> None:
        """Give the signals back that a command has caught: another one is to follow."""
        self._signals.release()

    def _run(
        self, verb: Verb, words: Sequence[str], now: Connection, ending: Ending
    ) -> int:
        found: dict[str, str] = {}
        try:
            raw = read(verb, words, found)
        except HelpWanted:
            return self._explain(verb, ending)
        except UsageError as error:
            self.debug.tell_options(verb.name, verb.options, found)
            if not isinstance(error, MissingError):
                raise
            self.complain(error.complaints[:-1])
            raise UsageError(error.complaints[-1]) from error

        if is_strict_anyway(words, raw):
            left = partial(self._leave_to_virsh, words, now)
            return min(_report_errors(left, self.terminal), FAILED)

        self.debug.tell_options(verb.name, verb.options, raw)

        def run() -> int:
            given = convert(verb.options, raw)
            load_libvirt()
            status = import_module(verb.module).run(
                given, now.options, self.terminal, self._signals
            )
            return status or 0

        with self.debug.telling(verb.name):
            status = _report_errors(
                lambda: ending.after(run), self.terminal, is_virshs=verb.is_virshs
            )
        ending.print()
        return min(status, FAILED) if "strict-exit" in raw else status

    def _complete(self, words: Sequence[str], options: Globals, ending: Ending) -> int:
        """Answer a shell that completes a line, as virsh does."""
        words = words[1:] if words[:1] == ("--",) else words
        found = import_module("libvirt_postcopy.virsh.complete").candidates(
            words, options.connection
        )
        self._print("".join(f"{each}\n" for each in found), ending)
        return 0 if found else FAILED

    def _list_all(self, ending: Ending) -> int:
        status = run_virsh(["-q", "help"])
        self._print(overview(), ending)
        return status

    def _leave_to_virsh(self, words: Sequence[str], now: Connection) -> int:
        """Run a command without ``--strict-exit``, which virsh does not know and need not."""
        kept = [word for word in words if word != "--strict-exit"]
        refuse_crash([kept], now.options)
        return run_virsh([*now.given, *kept])

    def _explain(self, verb: Verb, ending: Ending) -> int:
        return self._print(help_text(verb), ending)

    def _print(self, text: str, ending: Ending) -> int:
        self.terminal.print(text)
        ending.print()
        return 0
