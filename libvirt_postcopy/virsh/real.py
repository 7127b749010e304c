"""The real virsh: found, and put in our place or run beside us.

It gets what we got, byte for byte; put in our place, also the process itself: its terminal, its signals, its
exit status.  :mod:`virsh_postcopy` does that without us where it is certain that a line is virsh's.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from libvirt_postcopy.errors import UsageError
from virsh_postcopy import (
    CHOSEN,
    DEEPEST,
    NAME,
    as_given,
    become,
    depth_of,
    one_deeper,
    search,
)

__all__ = [
    "ask_virsh",
    "end_by",
    "exec_virsh",
    "find_virsh",
    "passing_signals_to",
    "run_virsh",
    "start_virsh",
    "wait_for",
]

_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""By Python, and a program that it starts would inherit that."""

_ANSWER_S = 30.0


def exec_virsh(argv: Sequence[str]) -> NoReturn:
    """Become the real virsh.

    :param argv: Without the program's name.
    :raises UsageError: If there is none.
    """
    path, environ = _prepare()
    try:
        become(path, argv, environ)
    except OSError as error:
        raise _cannot_run(path, error) from error


def run_virsh(argv: Sequence[str]) -> int:
    """Run the real virsh to its end, and go on.

    :param argv: Without the program's name.
    :return: Its exit status.  Who is ended by a signal ends us in the same way.
    :raises UsageError: If there is none.
    """
    return wait_for(start_virsh(argv))


def start_virsh(
    argv: Sequence[str], *, stdin: int | None = None, terminal: str = ""
) -> int:
    """Start the real virsh on our own streams.

    :param stdin: What it reads instead of our standard input.
    :param terminal: Has it instead of ours, in a session of its own.
    :return: The process's id, to be waited for.
    :raises UsageError: If there is none.
    """
    path, environ = _prepare()
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    if stdin is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    if terminal:
        actions.append((os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0))
        actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
        environ["INPUTRC"] = os.devnull  # whole lines are typed there, not keys
    try:
        return os.posix_spawn(
            path,
            [NAME, *argv],
            one_deeper(environ),
            file_actions=actions,
            setsid=bool(terminal),
            setsigdef=_IGNORED,
        )
    except OSError as error:
        raise _cannot_run(path, error) from error


def wait_for(child: int) -> int:
    """Wait for its end; what ends it by a signal ends us.

    :return: Its exit status.
    """
    with passing_signals_to(child):
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        end_by(-status)
    return status


@contextmanager
def passing_signals_to(child: int) -> Iterator[None]:
    """Be as good as not there: what a terminal sends, it has sent to both; what is sent to us is passed on."""

    def pass_on(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    def pass_on_unless_typed(number: int, frame: object) -> None:
        if not _can_be_typed():
            pass_on(number, frame)

    handlers: dict[int, Any] = {
        signal.SIGINT: pass_on_unless_typed,
        signal.SIGQUIT: pass_on_unless_typed,
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
    }
    before = {}
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _can_be_typed() -> bool:
    """Whether a terminal sends what is typed at it to us, and so to virsh."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def end_by(number: int) -> NoReturn:
    """End as a program does that knows nothing of a signal."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def ask_virsh(
    argv: Sequence[str],
    *,
    in_english: bool = False,
    patience_s: float | None = _ANSWER_S,
) -> tuple[int, bytes, bytes]:
    """Run the real virsh on nothing, and take what it prints.

    :param patience_s: How long it may take; None for as long as it takes.
    :return: Exit status, standard output, standard error.
    :raises UsageError: If there is none, or if it does not come to its end.
    """
    import subprocess  # most lines need nothing of it

    path, environ = _prepare()
    if in_english:
        environ["LC_ALL"] = "C"
    try:
        done = subprocess.run(
            [NAME, *argv],
            executable=path,
            env=one_deeper(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=patience_s,
        )
    except OSError as error:
        raise _cannot_run(path, error) from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"'{path}' does not answer") from error
    return done.returncode, done.stdout, done.stderr


def _prepare() -> tuple[str, dict[str, str]]:
    environ = as_given(os.environ)
    path = find_virsh(environ, sys.argv[0])
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None if it is closed
            stream.flush()
    return path, environ


def _cannot_run(path: str, error: OSError) -> UsageError:
    return UsageError(
        f"cannot run '{path}': {error.strerror}", cure=f"see {CHOSEN} and PATH"
    )


def find_virsh(environ: Mapping[str, str], own: str) -> str:
    """Find the real virsh as :func:`virsh_postcopy.search` does.

    :param own: The path by which we were started.
    :raises UsageError: If there is none, or if what was taken for it has started us again.
    """
    if depth_of(environ) >= DEEPEST:
        raise UsageError(
            "the virsh that was found starts virsh-postcopy again",
            cure=f"set {CHOSEN} to the real virsh",
        )
    path = search(environ, own)
    if path is not None:
        return path
    if environ.get(CHOSEN):
        raise UsageError(
            f"{CHOSEN} names virsh-postcopy itself", cure="name the real virsh"
        )
    raise UsageError(
        "there is no virsh on PATH",
        cure=f"install it (package libvirt-clients), or set {CHOSEN}",
    )
