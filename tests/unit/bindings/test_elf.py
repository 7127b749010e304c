from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.bindings.elf import ElfError, Shared, read_shared
from libvirt_postcopy.bindings.library import loaded_files
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU

PATHS = {soname: loaded_files(soname)[0] for soname in (LIBVIRT, QEMU)}
GLUE = libvirt.libvirtmod.__file__
SMALL = Path(PATHS[QEMU]).read_bytes()


def as_readelf_says(path: str) -> dict[str, str]:
    text = subprocess.run(
        ["readelf", "--dyn-syms", "--wide", path],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 8 or words[4] == "LOCAL" or words[6] == "UND":
            continue
        if words[0].rstrip(":").isdigit():
            name, _, node = words[7].partition("@@")
            found[name.partition("@")[0]] = node
    return found


@pytest.mark.parametrize("soname", PATHS)
def test_symbols_and_versions_are_those_that_readelf_sees(soname: str) -> None:
    shared = read_shared(PATHS[soname])
    expected = as_readelf_says(PATHS[soname])
    # readelf writes a version node's own symbol with that node or without.
    nodes = set(shared.defined.values())
    ours = {name: node for name, node in shared.defined.items() if name not in nodes}
    theirs = {name: node for name, node in expected.items() if name not in nodes}
    assert ours == theirs
    assert len(ours) > (1000 if soname == LIBVIRT else 5)
    assert shared.soname == soname


def test_wanted_versions_are_those_that_readelf_sees() -> None:
    text = subprocess.run(
        ["readelf", "--version-info", "--wide", GLUE],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    wanted = read_shared(GLUE).wanted
    assert wanted[LIBVIRT] == set(re.findall(r"Name: (LIBVIRT_\S+)", text))
    assert wanted[LIBVIRT]


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "no ELF file"),
        (b"#!/bin/sh\n", "no ELF file"),
        (b"\x7fELF", "unknown kind"),
        (b"\x7fELF\x09\x01", "unknown kind"),
        (SMALL[:40], "damaged"),
        (SMALL[:400], "truncated"),
        (SMALL[: len(SMALL) // 2], "truncated"),
    ],
)
def test_what_is_no_whole_library(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "libvirt.so.0"
    path.write_bytes(content)
    with pytest.raises(ElfError, match=why):
        read_shared(path)


def test_program_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(SMALL[:16] + struct.pack("<H", 2) + SMALL[18:])  # ET_EXEC
    with pytest.raises(ElfError, match="no shared library"):
        read_shared(path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match="No such file"):
        read_shared(tmp_path / "nothing")
    with pytest.raises(ElfError, match="directory"):
        read_shared(tmp_path)


@given(
    st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=30
    ),
    st.integers(0, len(SMALL)),
)
def test_damage_is_an_error_of_ours_or_none(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    length: int,
) -> None:
    content = bytearray(SMALL)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:length] if length % 2 else content)
    try:
        shared = read_shared(path)
    except ElfError as error:
        assert str(error)
    else:
        assert isinstance(shared, Shared)


@given(st.integers(0, 1023), st.integers(0, 255))
def test_damage_at_the_head_is_an_error_of_ours_or_none(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    content = bytearray(SMALL)
    content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        assert read_shared(path).path == str(path)
    except ElfError as error:
        assert str(error)
