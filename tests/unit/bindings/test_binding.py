from __future__ import annotations

import struct
from pathlib import Path

import libvirt
import pytest

from libvirt_postcopy.bindings import binding as tested
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.vir.binding import installed
from unit.bindings.conftest import Copy


def test_what_is_installed() -> None:
    found = installed()
    assert found.libvirt == libvirt.getVersion()
    assert found.version.count(".") == 2
    assert found.file == libvirt.libvirtmod.__file__
    assert all(found.has(symbol) for symbol in SYMBOLS.values())
    assert found.numbers()["VIR_MIGRATE_POSTCOPY"] == 1 << 15
    assert found.strings()["VIR_MIGRATE_PARAM_BANDWIDTH"] == "bandwidth"
    assert "virDomain.migrateStartPostCopy" in found.postcopy_names()


def test_binding_without_the_qemu_module(module: Copy) -> None:
    bare = Binding(module, None)
    assert not bare.has(SYMBOLS["virDomainQemuMonitorCommand"])
    assert bare.has(SYMBOLS["virDomainMigrate3"])


@pytest.mark.parametrize("file", ["", "/nowhere/libvirtmod.so"])
def test_c_module_that_cannot_be_looked_into(module: Copy, file: str) -> None:
    module.libvirtmod = type("libvirtmod", (), {"__file__": file})
    bare = Binding(module)
    assert bare.hints() is None and bare.newest() == ""


class Scene:
    """A process' memory with a module in it, in files."""

    def __init__(self, folder: Path) -> None:
        self.first = 0x1000
        self.content = bytearray(0x200)
        self.memory, self.maps = folder / "mem", folder / "maps"

    def write(self, place: int, content: bytes) -> int:
        self.content[place : place + len(content)] = content
        return self.first + place

    def entry(self, place: int, text: int, kind: int) -> None:
        self.write(place, struct.pack("@Pi", text, kind))

    def hints(
        self,
        monkeypatch: pytest.MonkeyPatch,
        file: str = "/lib/libvirtmod.so",
        mapped: str = "/lib/libvirtmod.so",
    ) -> dict[str, int] | None:
        """What is read of the module that Python knows as ``file``, and the kernel as ``mapped``."""
        end = self.first + len(self.content)
        self.memory.write_bytes(bytes(self.first) + self.content)
        self.maps.write_text(
            f"{self.first:x}-{end:x} r--p 00000000 08:01 12  {mapped}\n"
            f"{end:x}-{end + 4096:x} ---p 00000000 08:01 12  {mapped}\n"
            "f000-f001 r--p 00000000 08:01 13  /lib/other.so\n"
        )
        monkeypatch.setattr(tested, "MAPS", str(self.maps))
        monkeypatch.setattr(tested, "MEMORY", str(self.memory))
        glue = type("libvirtmod", (), {"__file__": file})
        return Binding(type("libvirt", (), {"libvirtmod": glue})).hints()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    uri = scene.write(0x10, b"migrate_uri\0")
    port = scene.write(0x20, b"xdisks_port\0") + 1  # the linker shares ends
    other = scene.write(0x30, b"poll_max_ns\0")
    scene.entry(0x100, port, 1)
    scene.entry(0x110, uri, 7)
    scene.entry(0x120, other, 4)
    return scene


def test_table_is_read_both_ways(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene.hints(monkeypatch) == {"migrate_uri": 7, "disks_port": 1}


def test_module_behind_a_link(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where /lib64 is one: Python knows the way, the kernel the file."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").symlink_to("lib")
    mapped = (tmp_path / "lib" / "libvirtmod.so").resolve()
    found = scene.hints(
        monkeypatch, str(tmp_path / "lib64" / "libvirtmod.so"), str(mapped)
    )
    assert found == {"migrate_uri": 7, "disks_port": 1}


def test_module_that_an_upgrade_has_replaced(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scene.hints(monkeypatch, mapped="/lib/libvirtmod.so (deleted)")
    assert found == {"migrate_uri": 7, "disks_port": 1}


def test_another_module_is_not_taken_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scene.hints(monkeypatch, mapped="/opt/libvirtmod.so") is None


def test_table_ends_at_what_is_no_entry(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.entry(0x100, scene.first + 0x21, 0)  # no type
    assert scene.hints(monkeypatch) == {"migrate_uri": 7}
    scene.entry(0x120, 0xF000, 4)  # no text of the module
    assert scene.hints(monkeypatch) is None


def test_module_without_a_table(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(0x10, b"MIGRATE_URI\0")
    assert scene.hints(monkeypatch) is None
