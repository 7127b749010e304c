"""What the guest whose memory is checked does with it; ``boards`` has the machines that it is made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MIB", "PAGE", "Guest"]

PAGE = 4096
MIB = 1 << 20


@dataclass(frozen=True)
class Guest:
    """What the guest does with its memory."""

    memory_mib: int = 64
    fill_mib: int = 24  #: what is above stays untouched
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
        factor, add = self.generator
        page = 0
        for _ in range(self.working_pages):
            yield page
            page = (page * factor + add) & (self.working_pages - 1)

    @property
    def generator(self) -> tuple[int, int]:
        """The factor and the summand that give the next page of a sweep."""
        return (1029, 12345) if self.is_random else (1, 1)
