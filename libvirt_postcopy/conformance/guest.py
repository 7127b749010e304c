"""The guest whose memory is checked: its firmware, and what it must have left in memory.

``guest.S`` tells what it does.  It is the whole machine's software: there is no disk, no lock on an image and no
firmware that has to start, and it is the same for every release.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Guest", "MemoryReport", "filler", "firmware", "judge_memory"]

PAGE = 4096
MIB = 1 << 20
FIRST_PAGE = MIB
_FILLER = 0x5A3C96E1
_ROM_BYTES = 0x10000
_JUMP_AT = 0xFFF0
_PARAMS = struct.Struct("<IIIII")
_PARAMS_AT = 8
#: guest.S assembled, up to the last byte that is not zero; a test assembles it again and compares.
_CODE = bytes.fromhex(
    "50434657303030310000000000000000010000000100000000000000fa2e660f0116e8000f20c06683c8010f22c066ea3600"
    "0f00080066b810008ed88ec08ed0e4920c0224fee69266baf803b041eefcbf000010008b1d08000f0085db741189f835e196"
    "3c5ab900040000f3ab4bebebb046ee8b0d0c000f0085c974494931ed31f64589f3c1e30c81c300001000892b89e831d88983"
    "fc0f00000f20e083f0100f22e08b3d18000f0085ff74034febf90faf3510000f00033514000f0021ce75c2b042eeebbcf4eb"
    "fd8db400008d74000000000000000000ffff0000009acf00ffff00000092cf001700d0000f"
)
_JUMP = bytes.fromhex("ea1c0000f0")


@dataclass(frozen=True)
class Guest:
    """What the guest does with its memory."""

    memory_mib: int = 64
    fill_mib: int = 24  #: from 1 MiB on; what is above stays untouched
    working_mib: int = 8  #: rewritten for ever, a power of two; 0: idle
    is_random: bool = False  #: the order in which a sweep meets the pages
    delay: int = 300  #: turns of an empty loop after each page

    @property
    def fill_pages(self) -> int:
        return self.fill_mib * MIB // PAGE

    @property
    def working_pages(self) -> int:
        return self.working_mib * MIB // PAGE

    @property
    def order(self) -> Iterator[int]:
        """Pages in the order in which a sweep meets them."""
        factor, add = self._generator
        page = 0
        for _ in range(self.working_pages):
            yield page
            page = (page * factor + add) & (self.working_pages - 1)

    @property
    def _generator(self) -> tuple[int, int]:
        return (1029, 12345) if self.is_random else (1, 1)

    @property
    def dump_bytes(self) -> int:
        """How much is to be read from :data:`FIRST_PAGE` on: all of it."""
        return (self.memory_mib - 1) * MIB


def filler(number: int) -> int:
    """Return the word that a page is filled with."""
    return (FIRST_PAGE + number * PAGE) ^ _FILLER


def firmware(guest: Guest) -> bytes:
    """Return the ROM."""
    rom = bytearray(_CODE.ljust(_JUMP_AT, b"\0"))
    _PARAMS.pack_into(
        rom,
        _PARAMS_AT,
        guest.fill_pages,
        guest.working_pages,
        *guest._generator,
        guest.delay,
    )
    return bytes(rom + _JUMP).ljust(_ROM_BYTES, b"\0")


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


def judge_memory(dump: bytes, guest: Guest) -> MemoryReport:
    """Compare a dump, taken from :data:`FIRST_PAGE` on with the guest stopped, to the byte.

    Within the working set the sweep's number may fall once, by one, where the guest was stopped: there it
    may also have written the first word of a page and not the last.
    """
    bad: list[str] = []
    count = 0
    sweeps: dict[int, int] = {}
    for number in range(guest.fill_pages):
        page = dump[number * PAGE : (number + 1) * PAGE]
        problem = _page_problem(page, number, guest, sweeps)
        if problem:
            count += 1
            if len(bad) < 5:
                bad.append(f"page {number}: {problem}")
    rest = dump[guest.fill_pages * PAGE : guest.dump_bytes]
    if len(dump) < guest.dump_bytes:
        count += 1
        bad.append(f"{len(dump)} bytes instead of {guest.dump_bytes}")
    if rest.count(0) != len(rest):
        count += 1
        bad.append("memory that was never touched is not zero")
    edges, torn = _edges(guest, sweeps, dump)
    return MemoryReport(
        guest.fill_pages,
        max(sweeps.values(), default=0),
        edges,
        (*bad, *torn)[:5],
        count + len(torn),
    )


def _page_problem(
    page: bytes, number: int, guest: Guest, sweeps: dict[int, int]
) -> str:
    word = filler(number).to_bytes(4, "little")
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


def _edges(guest: Guest, sweeps: dict[int, int], dump: bytes) -> tuple[int, list[str]]:
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
        address = FIRST_PAGE + number * PAGE
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
    return (sweep ^ address) if sweep else (address ^ _FILLER)
