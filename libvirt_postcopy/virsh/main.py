"""The program ``virsh-postcopy``: takes what is ours, hands the rest to the real virsh.

Neither libvirt nor anything heavy is imported before a command line is known to be ours.

Exit status: 0 done; 1 failed, and the guest is where it was, which is virsh's own meaning; 3 the guest is split
and alive, or it cannot be told where it is, which is to be treated the same; 4 the guest is lost.
``--strict-exit`` folds the last two to 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from libvirt_postcopy.programs import (
    FAILED,
    error_handler,
    flush_streams,
    open_streams,
)
from libvirt_postcopy.virsh.ending import Ending
from libvirt_postcopy.virsh.grammar import (
    CommandLine,
    HelpWanted,
    parse_command,
    parse_globals,
)
from libvirt_postcopy.virsh.help import help_text, is_for_overview, overview, topic
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.options import option_names
from libvirt_postcopy.virsh.real import exec_virsh, run_virsh
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.verbs import Verb, claims

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
    if line is not None and is_for_overview(line):
        return _report_errors(lambda: _list_all(words), None)
    asked = None if line is None else topic(line.words)
    verb = None if line is None else claims(line.words)
    if line is None or (verb is None and asked is None):
        return _report_errors(lambda: exec_virsh(words), None)
    open_streams()
    terminal = Terminal(sys.stdout, sys.stderr)
    ending = Ending(line.options, terminal.print)
    if verb is None and asked is not None:
        return _explain(asked, ending, terminal)
    assert verb is not None
    return _report_errors(lambda: _run(verb, line, ending, terminal, signals), terminal)


def _report_errors(run: Callable[[], int], terminal: Terminal | None) -> int:
    def report(text: str) -> None:
        text = option_names(text)
        if terminal is not None:
            return terminal.say(text)
        open_streams()  # not sooner: the real virsh gets them as they are
        return Terminal(sys.stdout, sys.stderr).say(text)

    return error_handler(run, report, interrupted=_INTERRUPTED, statuses=_STATUSES)


def _list_all(words: list[str]) -> int:
    status = run_virsh(words)
    if status == 0:
        open_streams()
        Terminal(sys.stdout, sys.stderr).print(overview())
    return status


def _explain(verb: Verb, ending: Ending, terminal: Terminal) -> int:
    terminal.print(help_text(verb))
    ending.print()
    return 0


def _run(
    verb: Verb,
    line: CommandLine,
    ending: Ending,
    terminal: Terminal,
    signals: Signals,
) -> int:
    try:
        given = parse_command(verb.name, verb.options, line.words[1:])
    except HelpWanted:
        return _explain(verb, ending, terminal)

    def run() -> int:
        import_module(verb.module).run(given, line.options, terminal, signals)
        return 0

    status = _report_errors(lambda: ending.after(run), terminal)
    ending.print()
    return min(status, FAILED) if "strict-exit" in given else status
