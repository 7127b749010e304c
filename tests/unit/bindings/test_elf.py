from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
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


@pytest.mark.programs
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


@pytest.mark.programs
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


# Extreme values of fields


EHDR_PHOFF, EHDR_MACHINE, EHDR_PHNUM = 32, 18, 56  # Elf64_Ehdr


def changed(place: int, layout: str, value: int, content: bytes = SMALL) -> bytes:
    new = bytearray(content)
    struct.pack_into("<" + layout, new, place, value)
    return bytes(new)


def dynamic_entries(content: bytes) -> dict[int, int]:
    """Tags of the dynamic section, and where in the file their values are."""
    first, size, count = struct.unpack_from("<Q14xHH", content, EHDR_PHOFF)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", content, first + number * size)  # fmt: skip
        if kind == 2:  # PT_DYNAMIC
            places = range(offset, offset + length, 16)
            return {struct.unpack_from("<q", content, at)[0]: at + 8 for at in places}
    raise AssertionError("no dynamic section")


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[[bytes], str]:
    """Why a library cannot be read."""

    def read(content: bytes) -> str:
        path = tmp_path / "libvirt.so.0"
        path.write_bytes(content)
        with pytest.raises(ElfError) as caught:
            read_shared(path)
        return str(caught.value)

    return read


def test_program_headers_beyond_all_files(wrong: Callable[[bytes], str]) -> None:
    assert "damaged" in wrong(changed(EHDR_PHOFF, "Q", (1 << 64) - 1))


def test_library_for_another_machine(wrong: Callable[[bytes], str]) -> None:
    s390 = 22
    assert "another machine" in wrong(changed(EHDR_MACHINE, "H", s390))


@pytest.mark.parametrize("value", [0, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
def test_each_entry_of_the_dynamic_section_at_its_extremes(
    tmp_path: Path, value: int
) -> None:
    path = tmp_path / "libvirt.so.0"
    for at in dynamic_entries(SMALL).values():
        path.write_bytes(changed(at, "Q", value))
        try:
            assert isinstance(read_shared(path), Shared)
        except ElfError as error:
            assert str(error)


def test_names_lie_where_the_names_are(wrong: Callable[[bytes], str]) -> None:
    (size,) = (at for tag, at in dynamic_entries(SMALL).items() if tag == 10)
    assert "not among the names" in wrong(changed(size, "Q", 1))


def library_with(names: bytes, symbols: int, needs: bytes = bytes(16), files: int = 0) -> bytes:  # fmt: skip
    """A library of one segment, whose symbols all have the first name.

    :param needs: The version nodes that it wants, of so many files.
    """
    header, programs, entries = 64, 2 * 56, 9 * 16
    at_dynamic = header + programs
    at_hash = at_dynamic + entries
    at_symbols = at_hash + 8
    at_names = at_symbols + (symbols + 1) * 24
    at_needs = at_names + len(names)
    size = at_needs + len(needs)
    tags = ((4, at_hash), (5, at_names), (6, at_symbols), (10, len(names)), (14, 0), (11, 24), (0x6FFFFFFE, at_needs), (0x6FFFFFFF, files), (0, 0))  # fmt: skip
    return b"".join(
        (
            SMALL[:16],
            struct.pack("<HHIQQQIHHHHHH", 3, *struct.unpack_from("<H", SMALL, 18), 1, 0, header, 0, 0, 64, 56, 2, 64, 0, 0),  # fmt: skip
            struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096),
            struct.pack("<IIQQQQQQ", 2, 4, at_dynamic, at_dynamic, 0, entries, entries, 8),  # fmt: skip
            *(struct.pack("<qQ", *tag) for tag in tags),
            struct.pack("<II", 1, symbols + 1),
            bytes(24),
            struct.pack("<IBBHQQ", 0, 0x12, 0, 1, 1, 1) * symbols,
            names,
            needs,
        )
    )


def test_library_made_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "libvirt.so.0"
    path.write_bytes(library_with(b"virName\0", 3))
    assert read_shared(path).defined == {"virName": ""}


def test_name_of_four_mebibytes(wrong: Callable[[bytes], str]) -> None:
    """Two thousand symbols that share it took seconds."""
    assert "no end" in wrong(library_with(b"v" * (4 << 20) + b"\0", 2000))


def test_more_symbols_than_any_library_has(wrong: Callable[[bytes], str]) -> None:
    assert "claims 500001 entries" in wrong(library_with(b"v\0", 500_000))


def wanting(files: int, nodes: int) -> bytes:
    """A library that wants nodes of so many files, which are the same ones for each."""
    needs = [struct.pack("<HHIII", 1, nodes, 0, 16 * (files - n), 16) for n in range(files)]  # fmt: skip
    return library_with(b"v\0", 0, b"".join(needs) + struct.pack("<IHHII", 0, 0, 0, 0, 16) * nodes, files)  # fmt: skip


def test_wanted_nodes_made_by_hand_are_read(tmp_path: Path) -> None:
    path = tmp_path / "libvirt.so.0"
    path.write_bytes(wanting(2, 3))
    assert read_shared(path).wanted == {"v": {"v"}}


def test_more_wanted_nodes_than_any_library_has(wrong: Callable[[bytes], str]) -> None:
    """A megabyte of them, that each of many files may claim, took as many seconds as one likes."""
    assert "claims 262140 entries" in wrong(wanting(20, 65535))
