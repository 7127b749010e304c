"""What the guest must have left in memory."""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.conformance.boards import Board
from libvirt_postcopy.conformance.guest import PAGE, Guest

__all__ = ["MemoryReport", "filler", "judge_memory"]

_FILLER = 0x5A3C96E1  #: as in guest.S


def filler(address: int) -> int:
    """Return the word that the page at an address is filled with."""
    return address ^ _FILLER


@dataclass(frozen=True)
class MemoryReport:
    """What was found; right if nothing is bad and there is at most one edge."""

    pages: int
    sweep: int
    edges: int  #: changes of sweep along the order of writing
    bad: tuple[str, ...]  #: the first few, in words
    bad_pages: int

    @property
    def is_right(self) -> bool:
        return not self.bad_pages and self.edges <= 1

    def to_json(self) -> dict[str, object]:
        return {
            "pages": self.pages,
            "sweep": self.sweep,
            "edges": self.edges,
            "bad-pages": self.bad_pages,
            "bad": list(self.bad),
        }


def judge_memory(dump: bytes, guest: Guest, board: Board) -> MemoryReport:
    """Compare a dump, taken from the board's first page on with the guest stopped, to the byte.

    Within the working set the sweep's number may fall once, by one, where the guest was stopped: there it
    may also have written the first word of a page and not the last.
    """
    bad: list[str] = []
    count = 0
    sweeps: dict[int, int] = {}
    for number in range(guest.fill_pages):
        page = dump[number * PAGE : (number + 1) * PAGE]
        problem = _page_problem(page, number, guest, board, sweeps)
        if problem:
            count += 1
            if len(bad) < 5:
                bad.append(f"page {number}: {problem}")
    wanted = board.dump_bytes(guest)
    rest = dump[guest.fill_pages * PAGE : wanted]
    if len(dump) < wanted:
        count += 1
        bad.append(f"{len(dump)} bytes instead of {wanted}")
    if rest.count(0) != len(rest):
        count += 1
        bad.append("memory that was never touched is not zero")
    edges, torn = _edges(guest, board, sweeps, dump)
    return MemoryReport(
        guest.fill_pages,
        max(sweeps.values(), default=0),
        edges,
        (*bad, *torn)[:5],
        count + len(torn),
    )


def _page_problem(
    page: bytes, number: int, guest: Guest, board: Board, sweeps: dict[int, int]
) -> str:
    word = filler(board.address(number)).to_bytes(4, "little")
    if len(page) < PAGE:
        return "missing"
    if page[4:-4] != word * (PAGE // 4 - 2):
        return "its content is another" if any(page[4:-4]) else "its content is zero"
    if number >= guest.working_pages:
        return "" if page[:4] == page[-4:] == word else "its first or last word"
    if page[:4] == word:
        sweeps[number] = 0
        return ""
    sweeps[number] = int.from_bytes(page[:4], "little")
    return ""


def _edges(
    guest: Guest, board: Board, sweeps: dict[int, int], dump: bytes
) -> tuple[int, list[str]]:
    """Count falls of the sweep's number along the order, and name pages whose last word does not fit."""
    edges, torn = 0, []
    newest = max(sweeps.values(), default=0)
    previous: int | None = None
    torn_seen = 0
    for number in guest.order:
        sweep = sweeps.get(number)
        if sweep is None:
            continue
        if previous is not None and sweep != previous:
            edges += 1 if sweep < previous else 2  # a rise is never right
        previous = sweep
        address = board.address(number)
        last = int.from_bytes(
            dump[number * PAGE + PAGE - 4 : (number + 1) * PAGE], "little"
        )
        if last == _last_word(sweep, address):
            if sweep not in (newest, newest - 1):
                torn.append(f"page {number}: sweep {sweep}, the newest is {newest}")
        elif (
            sweep == newest and last == _last_word(sweep - 1, address) and not torn_seen
        ):
            torn_seen += 1  # the one that was being written
        else:
            torn.append(f"page {number}: first word of sweep {sweep}, last {last:#x}")
    return edges, torn


def _last_word(sweep: int, address: int) -> int:
    return (sweep ^ address) if sweep else filler(address)
