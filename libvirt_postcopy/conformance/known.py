"""Which release has which name: by QEMU's own documentation, and by what released binaries list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CAPABILITIES", "STATUSES", "Span", "in_range"]


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@dataclass(frozen=True)
class Span:
    """From one release to another, both included; without an end, up to now."""

    since: str
    last: str = ""

    def covers(self, version: tuple[int, ...]) -> bool:
        return _parts(self.since) <= version[:2] and (
            not self.last or version[:2] <= _parts(self.last)
        )


def in_range(version: tuple[int, ...], spans: str) -> bool:
    """Whether a version is in one of ``2.5-4.2 10.0 11.0-``."""
    for span in spans.split():
        first, dash, last = span.partition("-")
        if Span(first, last if dash else first).covers(version):
            return True
    return False


def _table(text: str) -> Mapping[str, Span]:
    rows = (line.split() for line in text.strip().splitlines())
    return MappingProxyType(
        {row[0]: Span(row[1], row[2] if len(row) > 2 else "") for row in rows}
    )


CAPABILITIES = _table("""
    xbzrle                  1.2
    rdma-pin-all            2.0
    auto-converge           1.6
    zero-blocks             1.6 10.2
    compress                2.4 9.0
    events                  2.4
    x-postcopy-ram          2.5 2.5
    postcopy-ram            2.6
    x-colo                  2.8
    release-ram             2.9
    block                   2.10 9.0
    return-path             2.10
    pause-before-switchover 2.11
    x-multifd               2.11 3.1
    multifd                 4.0
    dirty-bitmaps           2.12
    postcopy-blocktime      3.0
    late-block-activate     3.0
    x-ignore-shared         4.0
    validate-uuid           4.2
    background-snapshot     6.0
    zero-copy-send          7.1
    postcopy-preempt        7.1
    switchover-ack          8.1
    dirty-limit             8.1
    mapped-ram              9.0
""")

STATUSES = _table("""
    none                   1.2
    setup                  1.2
    cancelling             2.0
    cancelled              1.2
    active                 1.2
    postcopy-active        2.5
    completed              1.2
    failed                 1.2
    colo                   2.8
    pre-switchover         2.11
    device                 2.11
    postcopy-paused        3.0
    postcopy-recover       3.0
    wait-unplug            4.2
    postcopy-recover-setup 9.1
    postcopy-device        10.2
    failing                11.0
""")
