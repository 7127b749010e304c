"""What is in a fetched root."""

from __future__ import annotations

import os
from pathlib import Path

from releases.known import Flavour
from releases.root import Root, read_status

STATUS = """\
Package: qemu-system-x86
Status: install ok installed
Version: 1:10.0.13+ds-0+deb13u1
Description: QEMU
 Package: not this
 .
 Version: nor this

Package: gone
Status: deinstall ok config-files
Version: 1


Package: libvirt-daemon-driver-qemu
Version: 11.3.0-3+deb13u3
Status: install ok unpacked
"""


def write_status(folder: Path, text: str) -> None:
    status = folder / "root/var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(text)


def test_installed_and_unpacked_packages_count() -> None:
    assert read_status(STATUS) == {
        "qemu-system-x86": "1:10.0.13+ds-0+deb13u1",
        "libvirt-daemon-driver-qemu": "11.3.0-3+deb13u3",
    }


def test_versions_are_those_of_the_packages(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)
    root = Root(tmp_path, "trixie", Flavour.FULL)
    assert (root.qemu, root.libvirt) == ("10.0.13", "11.3.0")


def test_root_without_libvirt_has_no_version_of_it(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS.partition("\n\n")[0])
    assert Root(tmp_path, "trixie", Flavour.QEMU).libvirt == ""


def test_size_counts_a_hard_linked_file_once_and_follows_no_link(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/usr")
    size = Root(tmp_path, "trixie", Flavour.QEMU).size_bytes()
    assert 1 << 20 <= size < 1.1 * (1 << 20)
