"""One shape for migration statistics, from libvirt's job statistics or from QEMU's query-migrate.

Only the promised fields are read; unknown ones are kept in ``other`` so that they can be shown and
recorded.  Missing figures are None, never 0: while QEMU is in ``setup`` there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from libvirt_postcopy.constants import JobField

__all__ = ["Stats", "PassCount"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})

#: ``virDomainGetJobStats`` key → field (libvirt ``qemuDomainMigrationJobDataToParams``).
_FROM_JOB = {
    JobField.VIR_DOMAIN_JOB_TIME_ELAPSED: "elapsed_ms",
    JobField.VIR_DOMAIN_JOB_SETUP_TIME: "setup_ms",
    JobField.VIR_DOMAIN_JOB_DOWNTIME: "downtime_ms",
    JobField.VIR_DOMAIN_JOB_DATA_REMAINING: "data_remaining",
    JobField.VIR_DOMAIN_JOB_MEMORY_TOTAL: "memory_total",
    JobField.VIR_DOMAIN_JOB_MEMORY_PROCESSED: "memory_sent",
    JobField.VIR_DOMAIN_JOB_MEMORY_REMAINING: "memory_remaining",
    JobField.VIR_DOMAIN_JOB_MEMORY_CONSTANT: "constant_pages",
    JobField.VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES: "normal_bytes",
    JobField.VIR_DOMAIN_JOB_MEMORY_BPS: "bytes_per_s",
    JobField.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE: "dirty_pages_per_s",
    JobField.VIR_DOMAIN_JOB_MEMORY_ITERATION: "sync_count",
    JobField.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE: "page_size",
    JobField.VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS: "postcopy_requests",
}

#: QAPI ``MigrationInfo`` and its ``ram`` (``MigrationStats``) → field.
_FROM_INFO = {
    "total-time": "elapsed_ms",
    "setup-time": "setup_ms",
    "downtime": "downtime_ms",
}
_FROM_RAM = {
    "total": "memory_total",
    "transferred": "memory_sent",
    "remaining": "memory_remaining",
    "duplicate": "constant_pages",
    "normal-bytes": "normal_bytes",
    "dirty-pages-rate": "dirty_pages_per_s",
    "dirty-sync-count": "sync_count",
    "page-size": "page_size",
    "postcopy-requests": "postcopy_requests",
}


@dataclass(frozen=True)
class Stats:
    """One reading.

    :ivar elapsed_ms: Since the migration began.
    :ivar downtime_ms: QEMU's own figure; an expectation until the end.  QEMU 11.1 can report absurd
        values, see :class:`libvirt_postcopy.figures.Summary` for the measured one.
    :ivar memory_sent: Bytes on the wire for memory, with their framing.
    :ivar constant_pages: Pages that were one repeated byte and cost nearly nothing.
    :ivar sync_count: QEMU's ``dirty-sync-count``, libvirt's ``memory_iteration``.  Up to QEMU 10.0 the
        number of the running pass; QEMU 11.1 raises it ten times a second.  Count passes with
        :class:`PassCount`.
    :ivar other: What the reply held besides.
    """

    elapsed_ms: int | None = None
    setup_ms: int | None = None
    downtime_ms: int | None = None
    data_remaining: int | None = None
    memory_total: int | None = None
    memory_sent: int | None = None
    memory_remaining: int | None = None
    constant_pages: int | None = None
    normal_bytes: int | None = None
    bytes_per_s: int | None = None
    dirty_pages_per_s: int | None = None
    sync_count: int | None = None
    page_size: int | None = None
    postcopy_requests: int | None = None
    other: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)

    @classmethod
    def from_job_stats(cls, reply: Mapping[str, Any]) -> Stats:
        """Read what ``virDomain.jobStats()`` or the JOB_COMPLETED event gives."""
        return cls(**_pick(_FROM_JOB, reply), other=_rest(_FROM_JOB, reply))

    @classmethod
    def from_query_migrate(cls, reply: Mapping[str, Any]) -> Stats:
        """Read a ``query-migrate`` reply's ``return`` member (QAPI ``MigrationInfo``)."""
        ram = reply.get("ram")
        ram = ram if isinstance(ram, Mapping) else {}
        mbps = _figure(ram.get("mbps"))
        rate = None if mbps is None else int(mbps * 1e6 / 8)
        rest = {key: value for key, value in reply.items() if key != "ram"}
        other = {**_rest(_FROM_INFO, rest), **_rest(_FROM_RAM, ram)}
        return cls(
            **_pick(_FROM_INFO, reply),
            **_pick(_FROM_RAM, ram),
            bytes_per_s=rate,
            other=other,
        )

    @property
    def has_sent_all(self) -> bool:
        """Nothing of the guest's memory is left to be sent; false where there are no figures."""
        return bool(self.memory_total) and self.memory_remaining == 0

    @property
    def swept_bytes(self) -> int:
        """Guest memory that has been gone over, sent in full or as a constant page; repeats count again."""
        return (self.normal_bytes or 0) + (self.constant_pages or 0) * (
            self.page_size or 4096
        )

    @property
    def dirty_bytes_per_s(self) -> int | None:
        """How fast the guest makes work; None until QEMU has finished a pass."""
        if not self.dirty_pages_per_s:
            return None
        return self.dirty_pages_per_s * (self.page_size or 4096)


@dataclass(frozen=True)
class PassCount:
    """How many passes over memory are done, by bytes.

    A pass is done when as much has been gone over as was left to send when it began: all of memory for
    the first, what the guest had dirtied for a later one.  QEMU's own count is no guide: it goes up at
    every look at the dirty bitmap, which QEMU 11.1 takes ten times a second.

    :ivar target: ``swept_bytes`` at which the running pass is done; None before the first figures.
    """

    done: int = 0
    target: int | None = None

    def advance(self, stats: Stats) -> PassCount:
        """Take a reading into account.  A pass shorter than the time between readings is not seen."""
        if not stats.memory_total:
            return self
        target = self.target or stats.memory_total
        if stats.swept_bytes < target:
            return PassCount(self.done, target)
        left = max(stats.memory_remaining or 0, 1)
        return PassCount(self.done + 1, stats.swept_bytes + left)


def _figure(value: Any) -> float | None:
    """A number that fits QEMU's 64 bits; all else is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1 << 64 else None


def _pick(table: Mapping[str, str], reply: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: _figure(reply.get(key)) for key, name in table.items()}
    return {name: int(it) for name, it in figures.items() if it is not None}


def _rest(table: Mapping[str, str], reply: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reply.items() if key not in table}
