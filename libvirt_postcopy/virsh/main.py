"""The program ``virsh-postcopy``: takes what is ours, hands the rest to the real virsh.

Neither libvirt nor anything heavy is imported before a command line is known to be ours.

Exit status: 0 done; 1 failed, and the guest runs where it was, which is virsh's own meaning; 3 the guest is
split and alive; 4 the guest is lost.  ``--strict-exit`` folds the last two to 1.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.virsh.grammar import (
    CommandLine,
    HelpWanted,
    Value,
    parse_command,
    parse_globals,
)
from libvirt_postcopy.virsh.real import exec_virsh
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.verbs import Verb, claims, help_text

__all__ = ["entry", "error_handler", "main"]

FAILED = 1
_STATUS = {"split": 3, "lost": 4}


def entry() -> NoReturn:
    """Run as a program."""
    status = main()
    if any(thread.name.startswith("postcopy") for thread in threading.enumerate()):
        # Left before the end: a thread of ours is inside libvirt, and must not be torn down there.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    :param argv: Without the program's name.
    :return: The exit status, unless the real virsh takes the process over.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    terminal = Terminal(sys.stdout, sys.stderr)
    line = parse_globals(words)
    verb = None if line is None else claims(line.words)
    if line is None or verb is None:
        return error_handler(lambda: exec_virsh(words), terminal)
    status = error_handler(lambda: _run(verb, line, terminal), terminal)
    if status > FAILED and "strict-exit" in _options(verb, line):
        return FAILED
    return status


def error_handler(run: Callable[[], None], terminal: Terminal) -> int:
    """Run, and turn what is raised into one line on standard error and the exit status."""
    try:
        run()
    except PostcopyError as error:
        _report(str(error), terminal)
        return _STATUS.get(getattr(error, "guest", ""), FAILED)
    except KeyboardInterrupt:
        _report("interrupted: nothing was started", terminal)
        return FAILED
    except Exception as error:
        _report(f"unexpected, please report: {type(error).__name__}: {error}", terminal)
        return FAILED
    return 0


def _report(text: str, terminal: Terminal) -> None:
    if os.environ.get("LIBVIRT_POSTCOPY_DEBUG"):
        traceback.print_exc()
    terminal.say(f"error: {' '.join(text.split())}")


def _options(verb: Verb, line: CommandLine) -> dict[str, Value]:
    return parse_command(verb.name, verb.options, line.words[1:])


def _run(verb: Verb, line: CommandLine, terminal: Terminal) -> None:
    try:
        given = _options(verb, line)
    except HelpWanted:
        terminal.print(help_text(verb))
        return
    began = time.monotonic()
    try:
        import_module(verb.module).run(given, line.options, terminal)
    finally:
        if line.options.is_timed:
            elapsed_ms = (time.monotonic() - began) * 1000
            ending = f"\n(Time: {elapsed_ms:.3f} ms)\n\n"
        else:
            ending = "\n"
        if not line.options.is_quiet:
            terminal.print(ending)
