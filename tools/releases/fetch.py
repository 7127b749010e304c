"""Fetch a release: make its root, see that its QEMU runs, and only then put it into the cache."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from releases import cell, recipe, wrapper
from releases.aptconf import Mirror, acquire_options
from releases.cache import Cache
from releases.errors import FetchError, Interrupted, MachineError, ReleasesError
from releases.known import Flavour, Release
from releases.root import Root

__all__ = ["fetch", "check_machine", "reason"]


class Run(Protocol):
    """Runs a command; see ``cell.run``."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str,
        log: Path,
        tmp: Path,
        keep: Sequence[int],
    ) -> int: ...


Say = Callable[[str], None]
WHAT = {Flavour.QEMU: "QEMU", Flavour.FULL: "QEMU with libvirt"}


def fetch(
    release: Release,
    flavour: Flavour,
    *,
    cache: Cache,
    mirror: Mirror,
    say: Say = print,
    refresh: bool = False,
    run: Run = cell.run,
) -> Root:
    """Make a release's root and put it into the cache; another one at the same work is waited for.

    :param run: Runs mmdebstrap, as ``cell.run`` does.
    :param refresh: Make it also if it is there, and replace it.
    :raises FetchError: If it failed; nothing of it is left but the log.
    :raises Interrupted: On a KeyboardInterrupt; the same.
    """
    suite = release.suite
    with cache.lock(
        suite, flavour, on_wait=lambda: say(f"{suite}: waiting for another fetch")
    ) as lock:
        present = cache.get(suite, flavour)
        if present and not refresh:
            return present
        log = cache.log(suite, flavour)
        say(f"{suite}: fetching {WHAT[flavour]} (about half a minute; log: {log})")
        with cache.workshop(suite, flavour) as folder:
            try:
                _make(
                    release, flavour, folder, mirror=mirror, log=log, lock=lock, run=run
                )
            except KeyboardInterrupt:
                raise Interrupted(suite) from None
            return cache.put(folder, suite, flavour)


def check_machine(mirror: Mirror) -> None:
    """See that a fetch can be tried here.

    :raises MachineError: If not; says what to do.
    """
    for program in ("mmdebstrap", "setpriv", "unshare"):
        if shutil.which(program) is None:
            raise MachineError(f"{program} is not installed; tools/setup installs it")
    if not Path(mirror.keyring).exists():
        raise MachineError(
            f"{mirror.keyring}, Debian's keys, is not there; tools/setup installs it"
        )
    if os.geteuid() != 0:
        raise MachineError("fetching a release needs root; run it as root or with sudo")


def _make(
    release: Release,
    flavour: Flavour,
    folder: Path,
    *,
    mirror: Mirror,
    log: Path,
    lock: int,
    run: Run,
) -> None:
    root = Root(folder, release.suite, flavour)
    tmp = folder / "tmp"
    tmp.mkdir()
    argv = recipe.command(release, flavour, root.tree, acquire=acquire_options())
    status = run(
        argv, stdin=recipe.sources(release, mirror), log=log, tmp=tmp, keep=[lock]
    )
    shutil.rmtree(tmp)
    if status:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise FetchError(release.suite, reason(text, status), log=log)
    try:
        wrapper.write(root.tree, root.wrapper, release=release.suite)
        wrapper.check(root.tree, root.wrapper)
    except ReleasesError as error:
        raise FetchError(release.suite, str(error), log=log) from error


def reason(log: str, status: int) -> str:
    """The line of a failed mmdebstrap's log that says why: its first error, else its last word."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    full = [line for line in lines if "No space left on device" in line]
    errors = [re.sub(r"^E: ", "", line) for line in lines if line.startswith("E: ")]
    return (full + errors + lines[-1:] + [f"mmdebstrap ended with status {status}"])[0]
