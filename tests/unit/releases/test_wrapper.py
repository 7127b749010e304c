"""The executable that runs a root's QEMU; the root here is a fake whose dynamic linker is a shell script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from releases import wrapper
from releases.errors import ReleasesError

from .fakes import LINKER, fake_tree

LISTING = """\
	linux-vdso.so.1 (0x00007ffc)
	libz.so.1 => /c/root/usr/lib/x86_64-linux-gnu/libz.so.1 (0x00007f1)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f2)
	libnot.so.2 => not found
	/lib64/ld-linux-x86-64.so.2 => /c/root/lib64/ld-linux-x86-64.so.2 (0x00007f3)
"""


def made(folder: Path, **kwargs: str) -> tuple[Path, Path]:
    tree = fake_tree(folder / "root", **kwargs)
    wrapper.write(tree, folder / "qemu", release="trixie")
    return tree, folder / "qemu"


@pytest.mark.programs
def test_qemu_runs_by_the_roots_own_linker_libraries_modules_and_firmware(
    tmp_path: Path,
) -> None:
    tree, path = made(
        tmp_path, linker='#!/bin/sh\necho "$QEMU_MODULE_DIR"; printf "%s\\n" "$@"\n'
    )
    output = subprocess.check_output([path, "-S", "a b"], text=True).splitlines()
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu"
    assert output == [
        f"{libraries}/qemu",
        "--library-path",
        libraries,
        f"{tree}/usr/bin/qemu-system-x86_64",
        "-L",
        f"{tree}/usr/share/qemu",
        "-S",
        "a b",
    ]


@pytest.mark.programs
def test_folder_may_be_moved_and_linked_to(tmp_path: Path) -> None:
    (tmp_path / "with blank").mkdir()
    made(tmp_path / "with blank")
    (tmp_path / "with blank").rename(tmp_path / "moved too")
    (tmp_path / "link").symlink_to(tmp_path / "moved too" / "qemu")
    assert "version 10.0.13" in subprocess.check_output(
        [tmp_path / "link", "--version"], text=True
    )


def test_before_usr_was_merged_libraries_are_in_two_places(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path / "root", linker_in="lib/x86_64-linux-gnu")
    text = wrapper.text(tree, release="bullseye")
    assert f'exec "$root"/lib/x86_64-linux-gnu/{LINKER} ' in text
    assert ' "$root"/lib/x86_64-linux-gnu:"$root"/usr/lib/x86_64-linux-gnu ' in text


@pytest.mark.programs
def test_check_returns_qemus_version(tmp_path: Path) -> None:
    assert wrapper.check(*made(tmp_path)) == "10.0.13"


@pytest.mark.programs
@pytest.mark.parametrize(
    ("linker", "why"),
    [
        (
            "#!/bin/sh\n[ $3 = --list ] || { echo broken >&2; exit 1; }\n",
            "does not run: broken",
        ),
        ("#!/bin/sh\n[ $3 = --list ] || exit 7\n", "does not run: exit status 7"),
        (
            "#!/bin/sh\necho 'libz.so.1 => /lib/libz.so.1'\n",
            "libraries from the host: libz.so.1",
        ),
    ],
)
def test_check_says_why_qemu_cannot_be_used(
    tmp_path: Path, linker: str, why: str
) -> None:
    with pytest.raises(ReleasesError, match=why):
        wrapper.check(*made(tmp_path, linker=linker))


def test_root_without_a_linker_is_refused(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path / "root")
    (tree / "usr/lib/x86_64-linux-gnu" / LINKER).unlink()
    with pytest.raises(ReleasesError, match="no dynamic linker"):
        wrapper.text(tree, release="trixie")


def test_libraries_from_the_host_and_missing_ones_are_strays() -> None:
    assert set(wrapper.stray_libraries(LISTING, Path("/c/root"))) == {
        "libm.so.6",
        "libnot.so.2",
    }
