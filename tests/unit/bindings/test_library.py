from __future__ import annotations

import sys
from pathlib import Path

import pytest

from libvirt_postcopy.bindings import library
from libvirt_postcopy.bindings.functions import HOLD, SYMBOLS
from libvirt_postcopy.bindings.library import loaded, loaded_files, read
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU

START = SYMBOLS["virDomainMigrateStartPostCopy"]


@pytest.mark.parametrize("is_looked_up", [True, False])
def test_library_that_is_loaded(is_looked_up: bool) -> None:
    found = loaded(LIBVIRT, is_looked_up=is_looked_up)
    assert found.error == "" and len(found.files) == 1
    assert found.version(START.name) == START.node
    assert found.version("virDomainMigrateStartPostCopyX") is None


def test_loader_and_file_agree() -> None:
    for soname in (LIBVIRT, QEMU):
        by_loader, by_file = loaded(soname), loaded(soname, is_looked_up=False)
        for name, symbol in SYMBOLS.items():
            if symbol.library == soname:
                assert by_loader.version(name) == by_file.version(name)
    assert loaded(LIBVIRT, is_looked_up=False).version(HOLD.name) == HOLD.node


@pytest.mark.programs
def test_library_that_is_not_there() -> None:
    assert "libnothing.so.7" in loaded("libnothing.so.7").error


def test_system_that_does_not_tell_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "MAPS", str(tmp_path / "maps"))
    for is_looked_up in (True, False):
        found = loaded(LIBVIRT, is_looked_up=is_looked_up)
        assert found.error == "" and found.files == ()
        assert found.version(START.name) == "", "it is there, in a version not known"
        assert found.version("virNoSuch") is None


def test_file_is_taken_at_its_word_without_cffi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cffi", None)
    found = loaded(LIBVIRT)
    assert found.error == "" and found.version(START.name) == START.node
    assert found.version("virNoSuch") is None
    monkeypatch.setattr(library, "MAPS", str(tmp_path / "maps"))
    assert "cannot be asked without cffi (pip install cffi)" in loaded(LIBVIRT).error


def test_files_of_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r--p 00000000 08:01 12  /usr/lib/libvirt.so.0.9000.0\n"
        "7f01-7f02 r-xp 00001000 08:01 12  /usr/lib/libvirt.so.0.9000.0\n"
        "7f02-7f03 rw-p 00000000 00:00 0 \n"
        "7f03-7f04 r--p 00000000 08:01 13  /usr/lib/libvirt-qemu.so.0\n"
        "7f05-7f06 r--p 00000000 08:01 14  /opt/my libs/libvirt.so.0 (deleted)\n"
    )
    monkeypatch.setattr(library, "MAPS", str(maps))
    expected = ("/usr/lib/libvirt.so.0.9000.0", "/opt/my libs/libvirt.so.0")
    assert loaded_files(LIBVIRT) == expected
    assert loaded_files(QEMU) == ("/usr/lib/libvirt-qemu.so.0",)


def test_file_of_another_library() -> None:
    path = loaded_files(QEMU)[0]
    assert "calls itself" in read(LIBVIRT, path).error
    assert read(QEMU, path).error == ""
