"""The program ``libvirt-postcopy``.

A new verb is a module in :mod:`libvirt_postcopy.cli.commands` and a line in :data:`VERBS`; the module is
imported when its name is on the command line, so that a verb may need much without slowing the others.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module, metadata
from typing import Any, NoReturn, TextIO

from libvirt_postcopy import __version__
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.features import version_text
from libvirt_postcopy.programs import (
    FAILED,
    error_handler,
    flush_streams,
    open_streams,
    printable,
)

__all__ = ["VERBS", "entry", "main"]

VERBS: Mapping[str, str] = {
    "bindings": "check that libvirt-python and the C library say the same",
    "check": "say beforehand whether post-copy can work between two hosts",
    "conformance": "check whether a QEMU's post-copy behaves as documented",
    "migrations": "list all migrations of a host, and what to type next",
    "phases": "print the phases of a migration and what leads from one to the next",
    "policy": "check a policy specification and say when it switches to post-copy",
}
"""Name, which is the module's too, and help."""


def entry() -> NoReturn:
    """Run as a program."""
    try:
        sys.exit(main())
    finally:
        flush_streams()


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run a command line.

    :param argv: Without the program's name.
    :param out: Where results go; standard output if None.
    :return: The exit status.
    """
    open_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    return error_handler(lambda: _run(words, out or sys.stdout), _report)


def _report(text: str) -> None:
    with suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, cure=f"see {self.prog} --help")


def _run(words: list[str], out: TextIO) -> int:
    try:
        status = _answer(words, out)
        out.flush()
    except BrokenPipeError:  # whoever read has enough
        return FAILED
    return status


def _answer(words: list[str], out: TextIO) -> int:
    parser = _parser(words)
    args = parser.parse_args(words)
    if args.version:
        out.write(_versions())
        return 0
    if args.verb is None:
        parser.print_help(out)
        return 0
    return int(_module(args.verb).run(args, out))


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
        "QEMU": _qemu(),
        "Python": platform.python_version(),
    }
    return "".join(f"{name} {version}\n" for name, version in rows.items() if version)


def _libvirt() -> str:
    """The library that is loaded; not imported at the top, because other verbs do without it."""
    try:
        import_module("libvirt_postcopy.vir.calls")
    except ImportError as error:
        return f"cannot be loaded: {error}"
    return version_text(sys.modules["libvirt"].getVersion())


_QEMU_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_QEMU_ANSWERS_S = 10
_QEMU_ELSEWHERE = "/usr/libexec/qemu-kvm"


def _qemu() -> str:
    """The version of the QEMU for this machine's guests; empty where none is installed."""
    names = (f"qemu-system-{platform.machine()}", "qemu-kvm", _QEMU_ELSEWHERE)
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_QEMU_ANSWERS_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    found = _QEMU_VERSION.search(done.stdout.decode(errors="replace"))
    return found[1] if found else f"unknown ({path})"


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
