"""The program ``libvirt-postcopy``.

A new verb is a module in :mod:`libvirt_postcopy.cli.commands` and a line in :data:`VERBS`; the module is
imported when its name is on the command line, so that a verb may need much without slowing the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, NoReturn, TextIO

from libvirt_postcopy import __version__
from libvirt_postcopy.errors import PostcopyError, UsageError
from libvirt_postcopy.features import version_text

__all__ = ["VERBS", "entry", "error_handler", "main"]

VERBS: Mapping[str, str] = {
    "phases": "print the phases of a migration and what leads from one to the next",
    "policy": "check a policy specification and say when it switches to post-copy",
}
"""Name, which is the module's too, and help."""


def entry() -> NoReturn:
    """Run as a program."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run a command line.

    :param argv: Without the program's name.
    :param out: Where results go; standard output if None.
    :return: The exit status.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    return error_handler(lambda: _run(words, out or sys.stdout))


def error_handler(run: Callable[[], int]) -> int:
    """Run, and turn what is raised into one line on standard error and the exit status 1."""
    try:
        return run()
    except PostcopyError as error:
        _report(str(error))
    except KeyboardInterrupt:
        _report("interrupted")
    except (
        BrokenPipeError
    ):  # whoever read has enough; nothing is to be flushed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        _report(f"unexpected, please report: {type(error).__name__}: {error}")
    return 1


def _report(text: str) -> None:
    if os.environ.get("LIBVIRT_POSTCOPY_DEBUG"):
        traceback.print_exc()
    line = " ".join(text.split())
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    print(f"error: {shown}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, cure=f"see {self.prog} --help")


def _run(words: list[str], out: TextIO) -> int:
    parser = _parser(words)
    args = parser.parse_args(words)
    if args.version:
        out.write(_versions())
        status = 0
    elif args.verb is None:
        parser.print_help(out)
        status = 0
    else:
        status = int(_module(args.verb).run(args, out))
    out.flush()
    return status


def _module(verb: str) -> Any:
    return import_module(f"libvirt_postcopy.cli.commands.{verb}")


def _parser(words: Sequence[str]) -> _Parser:
    parser = _Parser(
        prog="libvirt-postcopy",
        description="Post-copy live migration over libvirt: what is not a command of virsh.",
    )
    parser.add_argument(
        "--version",
        action="store_true",
        help="print the versions of all that is involved",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name in words:
            _module(name).options(verb)
    return parser


def _versions() -> str:
    rows = {
        "libvirt-postcopy": __version__,
        "libvirt": _libvirt(),
        "libvirt-python": _distribution("libvirt-python"),
        "Python": platform.python_version(),
    }
    return "".join(f"{name} {version}\n" for name, version in rows.items())


def _libvirt() -> str:
    """The library that is loaded; not imported at the top, because other verbs do without it."""
    try:
        import_module("libvirt_postcopy.vir.calls")
    except ImportError as error:
        return f"cannot be loaded: {error}"
    return version_text(sys.modules["libvirt"].getVersion())


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
