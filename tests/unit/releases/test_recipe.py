"""What mmdebstrap is told."""

from __future__ import annotations

from pathlib import Path

from releases.aptconf import Mirror
from releases.known import Flavour, Release
from releases.recipe import command, sources

MIRROR = Mirror("http://one.example/debian", "/k.gpg")


def test_release_comes_from_its_suite() -> None:
    assert sources(Release("trixie"), MIRROR) == (
        "deb [signed-by=/k.gpg] http://one.example/debian trixie main\n"
    )


def test_backports_come_with_their_base_and_are_preferred() -> None:
    release = Release("trixie-backports")
    assert [line.split()[3] for line in sources(release, MIRROR).splitlines()] == [
        "trixie",
        "trixie-backports",
    ]
    argv = command(release, Flavour.QEMU, Path("/t"))
    assert argv[-3:] == ["trixie", "/t", "-"]
    assert '--aptopt=APT::Default-Release "trixie-backports";' in argv


def test_qemu_alone_is_only_unpacked() -> None:
    argv = command(Release("trixie"), Flavour.QEMU, Path("/t"))
    assert "--variant=extract" in argv
    assert "--include=qemu-system-x86" in argv


def test_host_is_installed_with_libvirt() -> None:
    argv = command(Release("trixie"), Flavour.FULL, Path("/t"))
    assert "--variant=apt" in argv
    (include,) = [word for word in argv if word.startswith("--include=")]
    assert {"libvirt-daemon-system", "python3-libvirt", "iproute2"} <= set(
        include[10:].split(",")
    )


def test_expired_release_files_are_accepted() -> None:
    argv = command(Release("forky"), Flavour.QEMU, Path("/t"))
    assert '--aptopt=Acquire::Check-Valid-Until "false";' in argv


def test_machines_own_way_to_archives_is_passed_on() -> None:
    proxy = 'Acquire::http::Proxy "http://p.example:1";'
    argv = command(Release("forky"), Flavour.QEMU, Path("/t"), acquire=[proxy])
    assert f"--aptopt={proxy}" in argv
