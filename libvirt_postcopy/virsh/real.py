"""The real virsh: found, and put in our place.

It gets what we got, byte for byte, and the process itself: its terminal, its signals, its exit status.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import NoReturn

from libvirt_postcopy.errors import UsageError

__all__ = ["exec_virsh", "find_virsh", "run_virsh"]

_CHOSEN = "VIRSH_POSTCOPY_VIRSH"
_DEPTH = "VIRSH_POSTCOPY_DEPTH"
_DEEPEST = 8

_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""By Python, and a program that it starts would inherit that."""

_HEAD = 4096  # bytes of a script in which it names what it starts
_OURS = (b"libvirt_postcopy", b"virsh-postcopy")


def exec_virsh(argv: Sequence[str]) -> NoReturn:
    """Become the real virsh.

    :param argv: Without the program's name.
    :raises UsageError: If there is none.
    """
    path, environ = _prepare()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, [path, *argv], environ)
    except OSError as error:
        raise _cannot_run(path, error) from error


def run_virsh(argv: Sequence[str]) -> int:
    """Run the real virsh to its end, and go on.

    :param argv: Without the program's name.
    :return: Its exit status, as a shell counts it.
    :raises UsageError: If there is none.
    """
    path, environ = _prepare()
    try:
        child = os.posix_spawn(path, [path, *argv], environ, setsigdef=_IGNORED)
    except OSError as error:
        raise _cannot_run(path, error) from error
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def _prepare() -> tuple[str, dict[str, str]]:
    environ = _as_given(os.environ)
    path = find_virsh(environ, sys.argv[0])
    environ[_DEPTH] = str(_depth(environ) + 1)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None if it is closed
            stream.flush()
    return path, environ


def _cannot_run(path: str, error: OSError) -> UsageError:
    return UsageError(
        f"cannot run '{path}': {error.strerror}", cure=f"see {_CHOSEN} and PATH"
    )


def find_virsh(environ: Mapping[str, str], own: str) -> str:
    """Find the real virsh: the one that the environment names, else the first on PATH that is not ours.

    :param own: The path by which we were started.
    :raises UsageError: If there is none, or if what was taken for it has started us again.
    """
    if _depth(environ) >= _DEEPEST:
        raise UsageError(
            "the virsh that was found starts virsh-postcopy again",
            cure=f"set {_CHOSEN} to the real virsh",
        )
    chosen = environ.get(_CHOSEN)
    if chosen:
        if _is_ours(chosen, own):
            raise UsageError(
                f"{_CHOSEN} names virsh-postcopy itself", cure="name the real virsh"
            )
        return chosen
    for path in _candidates(environ.get("PATH", os.defpath)):
        if not _is_ours(path, own):
            return path
    raise UsageError(
        "there is no virsh on PATH",
        cure=f"install it (package libvirt-clients), or set {_CHOSEN}",
    )


def _depth(environ: Mapping[str, str]) -> int:
    """How often we have become virsh on the way to here; bounds any loop that is not seen otherwise."""
    text = environ.get(_DEPTH, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def _candidates(path: str) -> Iterator[str]:
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or os.curdir, "virsh")
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            yield candidate


def _is_ours(path: str, own: str) -> bool:
    """The script that runs now, under any name, or another one that starts this package."""
    if os.path.realpath(path) == os.path.realpath(own):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.startswith(b"#!") and any(name in head for name in _OURS)


def _as_given(environ: MutableMapping[str, str]) -> dict[str, str]:
    """The environment without what Python adds to it in a C locale (PEP 538)."""
    given = dict(environ)
    if given.get("LC_CTYPE", "").startswith("C.") and not _was_given("LC_CTYPE"):
        del given["LC_CTYPE"]
    return given


def _was_given(name: str) -> bool:
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(os.fsencode(name) + b"=") for entry in entries)
