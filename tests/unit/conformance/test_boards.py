from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from libvirt_postcopy.conformance import boards as module
from libvirt_postcopy.conformance.boards import BOARDS, PC, VIRT, Board
from libvirt_postcopy.conformance.guest import Guest

SMALL = Guest(memory_mib=4, fill_mib=2, working_mib=1)
#: Where the guest's numbers are; all else is code.
NUMBERS = slice(8, 28)


def binutil(name: str, board: Board) -> str:
    """The tool for a board's code: the machine's own will do, where it is of the same kind."""
    cross = shutil.which(f"{board.target}-linux-gnu-{name}")
    own = shutil.which(name) if platform.machine() == board.target else None
    found = cross or own
    if found is None:
        pytest.skip(f"no binutils for {board.target}")
    return found


@pytest.mark.programs
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.target)
def test_code_is_what_the_source_assembles_to(board: Board, tmp_path: Path) -> None:
    source = Path(module.__file__).with_name(board.source)
    made, linked, code = tmp_path / "o", tmp_path / "elf", tmp_path / "code"
    bits, kind = (["--32"], ["-m", "elf_i386"]) if board is PC else ([], [])
    subprocess.run([binutil("as", board), *bits, source, "-o", made], check=True)
    subprocess.run([binutil("ld", board), *kind, "-Ttext", "0", made, "-o", linked], check=True)  # fmt: skip
    subprocess.run([binutil("objcopy", board), "-O", "binary", "-j", ".text", linked, code], check=True)  # fmt: skip
    assembled = code.read_bytes()
    assert board.code == assembled
    image = bytearray(board.image(SMALL))
    assert struct.unpack("<IIIII", image[NUMBERS]) == (512, 256, 1, 1, 300)
    image[NUMBERS] = assembled[NUMBERS]
    assert bytes(image) == assembled


def test_what_qemu_is_given() -> None:
    assert PC.arguments("/x", "kvm") == ("-bios", "/x")
    loader = "loader,file=/x,addr=0x40100000,cpu-num=0,force-raw=on"
    assert VIRT.arguments("/x", "tcg") == ("-cpu", "cortex-a57", "-device", loader)
    assert VIRT.arguments("/x", "kvm")[:2] == ("-cpu", "host")


def test_a_dump_is_all_that_is_above_the_first_page() -> None:
    assert PC.dump_bytes(SMALL) == 3 << 20 and VIRT.dump_bytes(SMALL) == 2 << 20


def test_machine_types_of_releases() -> None:
    assert PC.release_of("pc-i440fx-10.0") == (10, 0)
    assert VIRT.release_of("virt-7.2") == (7, 2)
    for name in ("pc", "virt", "pc-i440fx-trusty", "pc-q35-7.2", "virt-7.2-x"):
        assert PC.release_of(name) == VIRT.release_of(name) == ()
