"""What the programs share: standard streams that may be closed, and errors as one line and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from types import MappingProxyType

from libvirt_postcopy.errors import PostcopyError

__all__ = [
    "FAILED",
    "error_handler",
    "flush_streams",
    "load_libvirt",
    "open_streams",
    "printable",
]

FAILED = 1

_NO_STATUSES: Mapping[str, int] = MappingProxyType({})


def error_handler(
    run: Callable[[], int],
    report: Callable[[str], None],
    *,
    interrupted: str = "interrupted",
    statuses: Mapping[str, int] = _NO_STATUSES,
) -> int:
    """Run, and turn what is raised into one line and an exit status.

    :param report: Shows the line.
    :param interrupted: What to say of a ``KeyboardInterrupt``.
    :param statuses: By where the guest is (``MigrationError.guest``), where it is not :data:`FAILED`.
    """
    status = FAILED
    try:
        return run()
    except PostcopyError as error:
        text = str(error)
        status = statuses.get(getattr(error, "guest", ""), FAILED)
        _trace()
    except KeyboardInterrupt:
        text = interrupted
        _trace()
    except Exception as error:
        text = f"unexpected, please report: {type(error).__name__}: {error}"
        _trace()
    report(f"error: {' '.join(text.split())}")
    return status


def _trace() -> None:
    if os.environ.get("LIBVIRT_POSTCOPY_DEBUG"):
        with suppress(OSError, ValueError):
            traceback.print_exc()


def printable(text: str) -> str:
    """Escape what a terminal could obey or cannot show: control, formatting and undecodable characters."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


_FILTERS = "LIBVIRT_LOG_FILTERS"
_ASKED_FOR = ("LIBVIRT_DEBUG", _FILTERS, "LIBVIRT_LOG_OUTPUTS", "LIBVIRT_POSTCOPY_DEBUG")  # fmt: skip


def load_libvirt() -> None:
    """Load libvirt, and keep its public calls from logging warnings, unless somebody has asked for its log.

    They guess: "Guest … probably left in 'paused' state on source" is said where a guest is lost too, whose half must
    not be resumed.  libvirt reads this from the environment once, when it is loaded, and no program that we start may
    find it there.
    """
    is_ours = not any(name in os.environ for name in _ASKED_FOR)
    if is_ours:
        os.environ[_FILTERS] = "4:libvirt.domain"  # errors only
    try:
        import_module("libvirt_postcopy.vir.calls")
    finally:
        if is_ours:
            del os.environ[_FILTERS]


def open_streams() -> None:
    """Put ``/dev/null`` in the place of standard streams that were closed when the program was started.

    Under their own numbers too: else a connection to a daemon would get one of these, and what a library
    writes to standard error would go to the daemon.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(file, file == number)
            mode = "w" if number else "r"
            setattr(sys, name, open(file, mode, closefd=False))  # noqa: SIM115


def flush_streams() -> None:
    """Write out what is buffered; what cannot be written is dropped, so that it fails nothing at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
