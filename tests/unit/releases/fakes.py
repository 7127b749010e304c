"""Stand-ins for a fetched root and for mmdebstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LINKER = "ld-linux-x86-64.so.2"
QEMU = '#!/bin/sh\n[ "$3" = --list ] || echo "QEMU emulator version 10.0.13 (Debian)"\n'


def fake_tree(
    tree: Path,
    *,
    qemu: str = "10.0.13",
    linker: str = QEMU,
    linker_in: str = "usr/lib/x86_64-linux-gnu",
) -> Path:
    """A root whose dynamic linker is a shell script, which stands for QEMU too."""
    for folder in (
        "usr/bin",
        "usr/lib/x86_64-linux-gnu/qemu",
        "usr/share/qemu",
        "var/lib/dpkg",
        linker_in,
    ):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / linker_in / LINKER).write_text(linker)
    (tree / linker_in / LINKER).chmod(0o755)
    status = f"Package: qemu-system-x86\nStatus: install ok unpacked\nVersion: 1:{qemu}+ds-1\n"
    (tree / "var/lib/dpkg/status").write_text(status)
    return tree


class FakeRun:
    """Does what mmdebstrap would, or fails as it would."""

    def __init__(
        self,
        *,
        qemu: str = "10.0.13",
        linker: str = QEMU,
        log: str = "",
        status: int = 0,
    ) -> None:
        self.qemu = qemu
        self.linker = linker
        self.log = log
        self.status = status
        self.calls = 0

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str,
        log: Path,
        tmp: Path,
        keep: Sequence[int],
    ) -> int:
        self.calls += 1
        fake_tree(Path(argv[-2]), qemu=self.qemu, linker=self.linker)
        log.write_text(self.log)
        return self.status


class InterruptedRun(FakeRun):
    """Ctrl-C when half of the root is there."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str,
        log: Path,
        tmp: Path,
        keep: Sequence[int],
    ) -> int:
        super().__call__(argv, stdin=stdin, log=log, tmp=tmp, keep=keep)
        raise KeyboardInterrupt
