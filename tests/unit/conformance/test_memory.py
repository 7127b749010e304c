from __future__ import annotations

import pytest

from libvirt_postcopy.conformance.boards import BOARDS, PC, Board
from libvirt_postcopy.conformance.guest import PAGE, Guest
from libvirt_postcopy.conformance.memory import filler, judge_memory

SMALL = Guest(memory_mib=4, fill_mib=2, working_mib=1)
RANDOM = Guest(memory_mib=4, fill_mib=2, working_mib=1, is_random=True)


def dump(guest: Guest, sweep: int, done: int, board: Board = PC) -> bytearray:
    """Memory as it is in a sweep when some pages of it are done."""
    data = bytearray(board.dump_bytes(guest))
    for page in range(guest.fill_pages):
        data[page * PAGE : (page + 1) * PAGE] = filler(board.address(page)).to_bytes(4, "little") * 1024  # fmt: skip
    for n, page in enumerate(guest.order):
        write(data, page, sweep if n < done else sweep - 1, board=board)
    return data


def write(
    data: bytearray, page: int, sweep: int, *, last: bool = True, board: Board = PC
) -> None:
    address = board.address(page)
    data[page * PAGE : page * PAGE + 4] = sweep.to_bytes(4, "little")
    if last:
        data[page * PAGE + PAGE - 4 : (page + 1) * PAGE] = (sweep ^ address).to_bytes(4, "little")  # fmt: skip


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.target)
@pytest.mark.parametrize("guest", [SMALL, RANDOM])
@pytest.mark.parametrize("done, edges", [(0, 0), (1, 1), (100, 1), (256, 0)])
def test_memory_as_the_guest_leaves_it_is_right(
    guest: Guest, done: int, edges: int, board: Board
) -> None:
    report = judge_memory(bytes(dump(guest, 9, done, board)), guest, board)
    assert report.is_right and report.edges == edges and not report.bad


def test_a_page_that_is_being_written_is_right() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 100, 9, last=False)
    assert judge_memory(bytes(data), SMALL, PC).is_right


@pytest.mark.parametrize(
    "place, bad",
    [
        (5 * PAGE + 2000, "page 5: its content is another"),
        (400 * PAGE, "page 400: its first or last word"),
        (-1, "memory that was never touched is not zero"),
    ],
)
def test_one_wrong_byte_is_found(place: int, bad: str) -> None:
    data = dump(SMALL, 9, 100)
    data[place] ^= 0x10
    report = judge_memory(bytes(data), SMALL, PC)
    assert not report.is_right and report.bad == (bad,)


def test_stale_page_is_found() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 30, 7)
    report = judge_memory(bytes(data), SMALL, PC)
    assert not report.is_right and "sweep 7" in report.bad[0]


def test_lost_sweep_and_lost_page_are_found() -> None:
    data = dump(SMALL, 9, 100)
    write(data, 30, 8)
    assert judge_memory(bytes(data), SMALL, PC).edges > 1
    data[7 * PAGE : 8 * PAGE] = bytes(PAGE)
    assert judge_memory(bytes(data), SMALL, PC).bad[0] == "page 7: its content is zero"
    assert not judge_memory(bytes(data[:-1]), SMALL, PC).is_right
