"""How a root is made: the command for mmdebstrap and the sources it reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from releases.aptconf import Mirror
from releases.known import Flavour, Release

__all__ = ["command", "sources"]

VARIANT = {Flavour.QEMU: "extract", Flavour.FULL: "apt"}
PACKAGES = {
    Flavour.QEMU: ["qemu-system-x86"],
    Flavour.FULL: [
        "qemu-system-x86",
        "libvirt-daemon-system",
        "libvirt-daemon-driver-qemu",
        "libvirt-clients",
        "python3-libvirt",
        "iproute2",
        "procps",
        "socat",
    ],
}
EXCLUDED = ["doc", "man", "info", "locale", "help", "bug", "lintian"]

#: The extract variant unpacks without dpkg's knowledge; this leaves a status file as dpkg would, to read versions from.
WRITE_STATUS = (
    'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --show --showformat='
    "'Package: ${Package}\\nStatus: install ok unpacked\\nArchitecture: ${Architecture}\\nVersion: ${Version}\\n\\n' "
    '"$deb" || exit; done >"$1/var/lib/dpkg/status"'
)


def sources(release: Release, mirror: Mirror) -> str:
    """One-line sources for the release: its suite and, under a backports suite, the one it stands on."""
    suites = dict.fromkeys([release.base, release.suite])
    return "".join(
        f"deb [signed-by={mirror.keyring}] {mirror.uri} {suite} main\n"
        for suite in suites
    )


def command(
    release: Release, flavour: Flavour, target: Path, *, acquire: Iterable[str] = ()
) -> list[str]:
    """The mmdebstrap command that makes ``target``; it reads the sources on its standard input.

    Check-Valid-Until is off: the Release file of an old or a frozen suite has long expired, its signature still holds.
    """
    apt = [
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Languages "none";',
        'APT::Sandbox::User "root";',
        *acquire,
    ]
    if release.is_backports:
        # A backport needs others of its suite (QEMU its firmware), so the whole suite is preferred, not the package.
        apt.append(f'APT::Default-Release "{release.suite}";')
    hooks = [f"--extract-hook={WRITE_STATUS}"] if flavour is Flavour.QEMU else []
    return [
        "mmdebstrap",
        "--mode=root",
        f"--variant={VARIANT[flavour]}",
        "--format=directory",
        "--components=main",
        *[f"--aptopt={option}" for option in apt],
        *[f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in EXCLUDED],
        f"--include={','.join(PACKAGES[flavour])}",
        *hooks,
        release.base,
        str(target),
        "-",
    ]
