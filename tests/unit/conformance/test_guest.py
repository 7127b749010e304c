from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from libvirt_postcopy.conformance import guest as module
from libvirt_postcopy.conformance.guest import (
    PAGE,
    Guest,
    filler,
    firmware,
    judge_memory,
)

SMALL = Guest(memory_mib=4, fill_mib=2, working_mib=1)
RANDOM = Guest(memory_mib=4, fill_mib=2, working_mib=1, is_random=True)


def test_code_is_what_the_source_assembles_to(tmp_path: Path) -> None:
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("binutils is not installed")
    source = Path(module.__file__).with_name("guest.S")
    subprocess.run(["as", "--32", str(source), "-o", tmp_path / "o"], check=True)
    layout = ["-m", "elf_i386", "-Ttext", "0", "--oformat", "binary"]
    subprocess.run(["ld", *layout, tmp_path / "o", "-o", tmp_path / "b"], check=True)
    rom = (tmp_path / "b").read_bytes()
    made = firmware(SMALL)
    assert len(made) == len(rom) == 65536
    assert made[:8] == rom[:8] and made[28:] == rom[28:]


def dump(guest: Guest, sweep: int, done: int) -> bytearray:
    """Memory as it is in a sweep when some pages of it are done."""
    data = bytearray(guest.dump_bytes)
    for page in range(guest.fill_pages):
        data[page * PAGE : (page + 1) * PAGE] = filler(page).to_bytes(4, "little") * 1024  # fmt: skip
    for n, page in enumerate(guest.order):
        write(data, page, sweep if n < done else sweep - 1)
    return data


def write(data: bytearray, page: int, sweep: int, *, last: bool = True) -> None:
    address = 0x100000 + page * PAGE
    data[page * PAGE : page * PAGE + 4] = sweep.to_bytes(4, "little")
    if last:
        data[page * PAGE + PAGE - 4 : (page + 1) * PAGE] = (sweep ^ address).to_bytes(4, "little")  # fmt: skip


@pytest.mark.parametrize("guest", [SMALL, RANDOM])
@pytest.mark.parametrize("done, edges", [(0, 0), (1, 1), (100, 1), (256, 0)])
def test_memory_as_the_guest_leaves_it_is_right(
    guest: Guest, done: int, edges: int
) -> None:
    report = judge_memory(bytes(dump(guest, 9, done)), guest)
    assert report.is_right and report.edges == edges and not report.bad


def test_order_meets_every_page_once() -> None:
    assert sorted(RANDOM.order) == list(range(256)) != list(RANDOM.order)


def test_a_page_that_is_being_written_is_right() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 100, 9, last=False)
    assert judge_memory(bytes(data), SMALL).is_right


@pytest.mark.parametrize(
    "place, bad",
    [
        (5 * PAGE + 2000, "page 5: its content is another"),
        (400 * PAGE, "page 400: its first or last word"),
        (3 << 20, "missing" and "4"),
    ],
)
def test_one_wrong_byte_is_found(place: int, bad: str) -> None:
    data = dump(SMALL, 9, 100)
    data[min(place, len(data) - 1)] ^= 0x10
    report = judge_memory(bytes(data), SMALL)
    assert not report.is_right
    assert place > 2 << 20 or report.bad[0] == bad


def test_stale_page_is_found() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 30, 7)
    report = judge_memory(bytes(data), SMALL)
    assert not report.is_right and "sweep 7" in report.bad[0]


def test_lost_sweep_and_lost_page_are_found() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 30, 8)
    assert judge_memory(bytes(data), SMALL).edges > 1
    data[7 * PAGE : 8 * PAGE] = bytes(PAGE)
    assert judge_memory(bytes(data), SMALL).bad[0] == "page 7: its content is zero"
    assert not judge_memory(bytes(data[:-1]), SMALL).is_right
