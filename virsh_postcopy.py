"""The first steps of the program ``virsh-postcopy``: what is certainly not ours becomes the real virsh at once.

Most command lines pass through, and then Python's own start is all the time there is: nothing is imported here
but what Python has loaded by itself, and the package only for a line that may be ours.  That is why this module
is not in it.
"""

import os
import sys

TYPE_CHECKING = False  # typing's own costs milliseconds, and __future__ a part of one: so types are in quotes
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence
    from typing import NoReturn

__all__ = ["entry", "may_be_ours", "search", "become", "as_given", "depth_of"]

CHOSEN = "VIRSH_POSTCOPY_VIRSH"
DEPTH = "VIRSH_POSTCOPY_DEPTH"
DEEPEST = 8

NAME = "virsh"
"""What virsh is to call itself: it may be kept under another name."""

_HEAD = 4096  # bytes of a script in which it names what it starts
_OURS = (b"libvirt_postcopy", b"virsh-postcopy", b"virsh_postcopy")


def entry() -> "NoReturn":
    """Run as a program."""
    words = sys.argv[1:]
    if not may_be_ours(words):
        _pass_through(words)
    from libvirt_postcopy.virsh.main import entry as full

    full()


def _pass_through(words: "Sequence[str]") -> None:
    """Become virsh; return only if that cannot be, for the whole program to say why."""
    environ = as_given(os.environ)
    if depth_of(environ) >= DEEPEST:
        return
    path = search(environ, sys.argv[0])
    if path is not None:
        try:
            become(path, words, environ)
        except OSError:
            return


# Whose line it is

_MARKS = ("postcopy", "strict-exit", "keep-uuid", "help")
"""One of these is in each verb and option of ours, and in what virsh's help is asked for with."""

_SHELLS = "complete"
"""The command by which a shell asks what may come next."""

_QUOTING = "'\"\\\n"
"""What virsh takes out of a command string, from the middle of a word too."""

_WITH_VALUE = ("-c", "-d", "-e", "-k", "-K", "-l", "--connect", "--debug", "--log")
_WITHOUT_VALUE = ("-q", "-r", "-t", "--quiet", "--readonly", "--timing")


def may_be_ours(words: "Sequence[str]") -> bool:
    """Whether a command line needs to be read with care.

    False only if there is a command, and nothing in the line that we know and virsh does not.

    :param words: Without the program's name.
    """
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        if words[at] in _WITH_VALUE:
            at += 2
        elif words[at] in _WITHOUT_VALUE or words[at].startswith("--connect="):
            at += 1
        else:
            return True
    command = words[at:]
    if len(command) == 1:
        command = [_unquoted(command[0])]
    if not command or command[0].startswith(_SHELLS):
        return True
    return any(mark in word for word in command for mark in _MARKS)


def _unquoted(text: str) -> str:
    for char in _QUOTING:
        text = text.replace(char, "")
    return text


# The real virsh


def search(environ: "Mapping[str, str]", own: str) -> "str | None":
    """Find the real virsh: the one that the environment names, else the first on PATH that is not ours.

    :param own: The path by which we were started.
    :return: None if there is none, or if the environment names us.
    """
    chosen = environ.get(CHOSEN)
    if chosen:
        return None if is_ours(chosen, own) else chosen
    for path in _candidates(environ.get("PATH", os.defpath)):
        if not is_ours(path, own):
            return path
    return None


def _candidates(path: str) -> "Iterator[str]":
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or os.curdir, NAME)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            yield candidate


def is_ours(path: str, own: str) -> bool:
    """The script that runs now, under any name, or another one that starts us."""
    try:
        if os.path.samefile(path, own):
            return True
    except OSError:
        pass
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.startswith(b"#!") and any(name in head for name in _OURS)


def depth_of(environ: "Mapping[str, str]") -> int:
    """How often we have become virsh on the way to here; bounds any loop that is not seen otherwise."""
    text = environ.get(DEPTH, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def become(path: str, words: "Sequence[str]", environ: "dict[str, str]") -> "NoReturn":
    """Put virsh in our place, with what we were given, byte for byte.

    :param environ: As :func:`as_given` has it.
    :raises OSError: If it cannot be run.
    """
    import _signal  # type: ignore[import-not-found]  # signal imports half of the standard library

    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # ignored by Python
        _signal.signal(number, _signal.SIG_DFL)
    os.execve(path, [NAME, *words], one_deeper(environ))


def one_deeper(environ: "Mapping[str, str]") -> "dict[str, str]":
    """The environment for virsh, in which we would know that we have been here."""
    return {**environ, DEPTH: str(depth_of(environ) + 1)}


def as_given(environ: "MutableMapping[str, str]") -> "dict[str, str]":
    """The environment without what Python adds to it in a C locale (PEP 538)."""
    given = dict(environ)
    if given.get("LC_CTYPE", "").startswith("C.") and not _was_given("LC_CTYPE"):
        del given["LC_CTYPE"]
    return given


def _was_given(name: str) -> bool:
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            entries = file.read().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(os.fsencode(name) + b"=") for entry in entries)
