"""``bindings``: says whether what Python says of libvirt is what the C library here says."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from libvirt_postcopy.bindings.binding import REBUILD
from libvirt_postcopy.programs import FAILED, printable

if TYPE_CHECKING:
    from libvirt_postcopy.bindings.report import Report

__all__ = ["examine_installed", "options", "run", "trouble"]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--json", action="store_true", help="by schemas/bindings.schema.json"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="do not ask the C compiler"
    )
    parser.add_argument(
        "--library",
        metavar="FILE",
        default="",
        help="look at this libvirt.so.0, without loading it, instead of the one that is loaded",
    )
    parser.add_argument(
        "--qemu-library",
        metavar="FILE",
        default="",
        help="the same for libvirt-qemu.so.0",
    )
    parser.add_argument(
        "--api",
        metavar="FILE",
        help="compare with this libvirt-api.xml instead of the one that is installed",
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the tables; the exit status is 1 if a migration would break, 2 if nothing could be checked."""
    from libvirt_postcopy.bindings.report import CANNOT_CHECK

    problem = trouble(args)
    if problem:
        print(f"error: {printable(problem)}", file=sys.stderr)
        return CANNOT_CHECK
    report = examine_installed(args)
    if args.json:
        out.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        out.writelines(f"{printable(line)}\n" for line in str(report).splitlines())
    return 0 if report.is_ok else FAILED


def examine_installed(args: argparse.Namespace) -> Report:
    """Compare all that is here, as :func:`options` say."""
    from libvirt_postcopy.bindings.check import examine
    from libvirt_postcopy.bindings.compiled import check_compiled
    from libvirt_postcopy.bindings.description import find_description
    from libvirt_postcopy.vir.binding import installed
    from libvirt_postcopy.vir.calls import silence_libvirt

    silence_libvirt()
    binding = installed()
    return examine(
        binding,
        library=args.library,
        qemu_library=args.qemu_library,
        description=Path(args.api) if args.api else find_description(),
        compile=None if args.no_compile else (lambda: check_compiled(binding)),
    )


#: With this process' own paths: ``-c`` alone would look into the working directory first, which may be anybody's.
_IMPORTS = "import sys; sys.path[:] = sys.argv[1:]; import libvirt, libvirt_qemu"
_IMPORTED_S = 30

_CURES = (
    (
        "No module named",
        "pip install libvirt-python, or the distribution's python3-libvirt",
    ),
    (
        "cannot open shared object file",
        "install libvirt's client library: libvirt0 (Debian, Ubuntu), libvirt-libs (Fedora, RHEL)",
    ),
    # version `LIBVIRT_9.0.0' not found; musl: virDomainX: symbol not found
    (
        "not found",
        f"libvirt-python was built against a newer libvirt: build it here, {REBUILD}",
    ),
    ("", "reinstall libvirt's client library and libvirt-python"),
)


def trouble(args: argparse.Namespace) -> str:
    """Why nothing can be checked, as :func:`options` say; empty if it can."""
    files = {
        "--library": args.library,
        "--qemu-library": args.qemu_library,
        "--api": args.api,
    }
    for option, file in files.items():
        if file and not Path(file).is_file():
            return f"{option}: there is no file '{file}'"
    return _loading_trouble()


def _loading_trouble() -> str:
    """Why libvirt cannot be loaded at all; empty if it can.

    Tried in another process: a damaged library ends the one that loads it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORTS, *sys.path],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_IMPORTED_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot check: {error}"
    if not done.returncode:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    what = "".join(said)
    if done.returncode < 0:
        what = f"loading it ended with {signal.Signals(-done.returncode).name}"
    cure = next(cure for text, cure in _CURES if text in what)
    return f"libvirt-python cannot be loaded: {what} ({cure})"
