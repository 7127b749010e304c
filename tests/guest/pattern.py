"""The bytes the guest leaves in memory; the same numbers as in ``guest.S``."""

import struct
from dataclasses import dataclass

__all__ = [
    "PAGE_BYTES",
    "PATTERN_START",
    "STATUS_ADDRESS",
    "Status",
    "page_bytes",
    "page_in_flight",
    "block_bytes",
    "BLOCK_BYTES",
    "BLOCKS",
    "STORES",
]

PAGE_BYTES = 4096
BLOCK_BYTES = 512
BLOCKS = PAGE_BYTES // BLOCK_BYTES
STORES = 2 * BLOCKS  #: that a sweep does in one page

PATTERN_START = 0x100000  #: physical address of the first page
STATUS_ADDRESS = 0x10000

_MUL_PAGE = 0x9E3779B1
_MUL_SEQUENCE = 0x85EBCA6B
_FILLER = 0x5A3C96E1
_WORD = 0xFFFFFFFF

_STATUS = struct.Struct("<8sIII4xIIII")
_STATUS_MAGIC = b"PCSTATUS"
_STATUS_VERSION = 1
_BLOCK_HEAD = struct.Struct("<III")
_ONE_WORD = struct.Struct("<I")
_FILLER_WORDS = BLOCK_BYTES // 4 - 4


def block_bytes(number: int, *, seed: int, sequence: int) -> bytes:
    """Return the block that page ``number`` is made of."""
    base = (number * _MUL_PAGE & _WORD) ^ seed
    check = (sequence * _MUL_SEQUENCE & _WORD) ^ base
    return (
        _BLOCK_HEAD.pack(sequence, number, seed)
        + _ONE_WORD.pack(base ^ _FILLER) * _FILLER_WORDS
        + _ONE_WORD.pack(check)
    )


def page_bytes(number: int, *, seed: int, sequence: int) -> bytes:
    """Return a page as the guest leaves it.

    :param number: Physical address divided by the page size.
    :param sequence: 0 for the fill, else the sweep that wrote it last.
    """
    return block_bytes(number, seed=seed, sequence=sequence) * BLOCKS


def page_in_flight(number: int, *, seed: int, sequence: int, stores: int) -> bytes:
    """Return a page of which a sweep has done the first ``stores`` stores.

    A machine can stop between any two of them.
    """
    old = block_bytes(number, seed=seed, sequence=sequence - 1)
    new = block_bytes(number, seed=seed, sequence=sequence)
    whole, half = divmod(stores, 2)
    page = new * whole
    if half:
        page += new[:4] + old[4:]
        whole += 1
    return page + old * (BLOCKS - whole)


@dataclass(frozen=True)
class Status:
    """The page in which the guest says how far it is."""

    seed: int
    ticks: int
    position: int  #: pages of this sweep that are complete
    sweep: int  #: 0 while filling; ``position`` then counts filled pages
    pages: int  #: of the whole pattern
    working_pages: int

    @classmethod
    def from_bytes(cls, data: bytes) -> "Status":
        """Read a status page.

        :raises ValueError: If it is none.
        """
        magic, version, *words = _STATUS.unpack_from(data)
        if magic != _STATUS_MAGIC:
            raise ValueError(f"no status page at {STATUS_ADDRESS:#x}: {magic!r}")
        if version != _STATUS_VERSION:
            raise ValueError(f"status page of version {version}")
        return cls(*words)

    def to_bytes(self) -> bytes:
        """Return the status page, padded with zeros."""
        words = _STATUS.pack(
            _STATUS_MAGIC,
            _STATUS_VERSION,
            self.seed,
            self.ticks,
            self.position,
            self.sweep,
            self.pages,
            self.working_pages,
        )
        return words.ljust(PAGE_BYTES, b"\0")
