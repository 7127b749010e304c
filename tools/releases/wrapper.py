"""The executable that runs a root's QEMU from the host.

The root's own dynamic linker starts it, so that neither chroot nor privileges are needed and QEMU sees the host's files,
sockets and network. Three things would otherwise come from the host and must not: libraries (a missing one is silently
taken from the host and then fails on a symbol version), QEMU's own modules (TCG is one in Debian 12), and firmware.

One thing still comes from the host where the root has none: QEMU looks into the host's module folder too, whatever it is
told. A module of another build is refused by QEMU with a line on stderr ("Only modules from the same build can be
loaded"), as 10.0 does for the host's ui-opengl at its default devices; it does no harm, and -nodefaults avoids it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from releases.errors import ReleasesError

__all__ = ["write", "text", "check"]

BINARY = "usr/bin/qemu-system-x86_64"
FIRMWARE = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]
#: Folders of private libraries, which their users find by an absolute RUNPATH, that is on the host.
PRIVATE = ["pulseaudio", "ceph", "systemd"]


def write(tree: Path, wrapper: Path, *, release: str) -> None:
    """Write the wrapper for the QEMU in ``tree``, which must be ``root`` beside it."""
    wrapper.write_text(text(tree, release=release), encoding="utf-8")
    wrapper.chmod(0o755)


def text(tree: Path, *, release: str) -> str:
    """The wrapper's text: it finds its root beside itself, so that the folder may be moved."""
    libraries = _libraries(tree)
    modules = next(
        (f"{folder}/qemu" for folder in libraries if (tree / folder / "qemu").is_dir()),
        "usr/lib/qemu",
    )
    firmware = " ".join(
        f"-L {_within(folder)}" for folder in FIRMWARE if (tree / folder).is_dir()
    )
    return f"""#!/bin/sh
# Runs the QEMU of Debian {release} by its own libraries, modules and firmware. Made by tools/qemu-versions.
root=$(dirname "$(readlink -f "$0")")/root
QEMU_MODULE_DIR={_within(modules)}
export QEMU_MODULE_DIR
exec {_within(_linker(tree))} --library-path {':'.join(_within(folder) for folder in libraries)} \\
    {_within(BINARY)} {firmware} "$@"
"""


def _within(path: str) -> str:
    return f'"$root"/{shlex.quote(path)}'


def _libraries(tree: Path) -> list[str]:
    """Folders of the root with libraries; before usr was merged they are in two places."""
    folders = [
        folder
        for top in ("lib", "usr/lib")
        for folder in sorted(tree.glob(f"{top}/*-linux-gnu*"))
    ]
    private = [folder / name for folder in folders for name in PRIVATE]
    return [
        str(folder.relative_to(tree)) for folder in folders + private if folder.is_dir()
    ]


def _linker(tree: Path) -> str:
    """The root's dynamic linker, by the name that the link leads to within the root.

    :raises ReleasesError: If there is none.
    """
    for folder in _libraries(tree):
        for linker in sorted((tree / folder).glob("ld-linux*.so.*")):
            if linker.is_file():
                return str(linker.relative_to(tree))
    raise ReleasesError("the root has no dynamic linker")


def check(tree: Path, wrapper: Path) -> str:
    """Run the wrapper once and return QEMU's own version.

    :raises ReleasesError: If it does not run, or would take a library from the host.
    """
    strays = stray_libraries(_linked(tree), tree)
    if strays:
        raise ReleasesError(
            f"its QEMU would take libraries from the host: {', '.join(sorted(strays))}"
        )
    try:
        run = subprocess.run(
            [str(wrapper), "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleasesError(f"its QEMU does not run: {error}") from error
    version = re.search(r"version (\S+)", run.stdout)
    if run.returncode or not version:
        raise ReleasesError(
            f"its QEMU does not run: {run.stderr.strip() or f'exit status {run.returncode}'}"
        )
    return version[1]


def _linked(tree: Path) -> str:
    """What the root's linker says it would load for QEMU."""
    libraries = ":".join(str(tree / folder) for folder in _libraries(tree))
    command = [
        str(tree / _linker(tree)),
        "--library-path",
        libraries,
        "--list",
        str(tree / BINARY),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def stray_libraries(listing: str, tree: Path) -> Iterable[str]:
    """Libraries of a linker's listing which are missing or outside of the root."""
    found = re.findall(r"^\s*(\S+) => (\S+|not found)", listing, re.MULTILINE)
    return {
        name
        for name, path in found
        if not path.startswith(f"{tree}/") and not name.startswith("/")
    }
