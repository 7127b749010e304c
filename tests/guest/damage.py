"""Tell how a page that is not as it must be is wrong."""

import enum
from dataclasses import dataclass
from typing import Optional

from .pattern import (
    BLOCK_BYTES,
    PAGE_BYTES,
    STORES,
    block_bytes,
    page_in_flight,
)

__all__ = ["Damage", "BadPage", "judge", "stores_done"]


class Damage(enum.Enum):
    """How a page is wrong."""

    STALE = "older than it must be"
    AHEAD = "newer than it must be"
    EMPTY = "all zeros"
    MISPLACED = "another page's content"
    FOREIGN = "of another boot of the guest"
    TORN = "parts of different ages"
    CORRUPT = "not what the guest writes"


@dataclass(frozen=True)
class BadPage:
    number: int
    damage: Damage
    expected_sequence: int
    found: str

    def __str__(self) -> str:
        return (
            f"page at {self.number * PAGE_BYTES:#x} is {self.damage.value}: sequence"
            f" {self.expected_sequence} expected, found {self.found}"
        )


def stores_done(page: bytes, number: int, *, seed: int, sweep: int) -> Optional[int]:
    """Tell how far a sweep is in this page, or None if it is no half-written one."""
    for stores in range(STORES + 1):
        if page == page_in_flight(number, seed=seed, sequence=sweep, stores=stores):
            return stores
    return None


def judge(page: bytes, number: int, *, seed: int, expected: int) -> Damage:
    """Name what is wrong with a page that is known to be wrong."""
    if not any(page):
        return Damage.EMPTY
    blocks = [page[at : at + BLOCK_BYTES] for at in range(0, PAGE_BYTES, BLOCK_BYTES)]
    heads = [_head(block) for block in blocks]
    if None in heads:
        return Damage.TORN if _is_mixed(blocks, number, seed) else Damage.CORRUPT
    if len(set(heads)) > 1:
        return Damage.TORN
    sequence, found_number, found_seed = heads[0] or (0, 0, 0)
    if found_seed != seed:
        return Damage.FOREIGN
    if found_number != number:
        return Damage.MISPLACED
    return Damage.STALE if sequence < expected else Damage.AHEAD


def _head(block: bytes) -> Optional[tuple[int, int, int]]:
    """Sequence, number and seed of a block that agrees with itself."""
    sequence, number, seed = (
        int.from_bytes(block[at : at + 4], "little") for at in (0, 4, 8)
    )
    if block != block_bytes(number, seed=seed, sequence=sequence):
        return None
    return sequence, number, seed


def _is_mixed(blocks: list[bytes], number: int, seed: int) -> bool:
    """Whether all but sequence and check words are this page's own."""
    own = block_bytes(number, seed=seed, sequence=0)[4:-4]
    return all(block[4:-4] == own for block in blocks)
