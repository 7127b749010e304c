"""Which release has which name: by QEMU's own documentation, and by what released binaries list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "ARGUMENTS",
    "CAPABILITIES",
    "COMMANDS",
    "PARAMETERS",
    "STATUSES",
    "Span",
    "in_range",
    "span_of",
]


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

COMMANDS = _table("""
    qmp_capabilities           0.13
    query-version              0.14
    query-commands             0.14
    query-status               0.14
    query-migrate              0.14
    cont                       0.14
    stop                       0.14
    migrate                    0.14
    migrate_cancel             0.14
    migrate_set_speed          0.14 5.2
    migrate_set_downtime       0.14 5.2
    migrate-set-cache-size     1.2 5.2
    migrate-set-capabilities   1.2
    query-migrate-capabilities 1.2
    migrate-incoming           2.3
    migrate-set-parameters     2.4
    query-migrate-parameters   2.4
    query-qmp-schema           2.5
    migrate-start-postcopy     2.5
    migrate-continue           2.11
    migrate-recover            3.0
    migrate-pause              3.0
    yank                       6.0
    query-yank                 6.0
    query-migrationthreads     8.0 10.2
""")

PARAMETERS = _table("""
    compress-level                  2.4 9.0
    compress-threads                2.4 9.0
    decompress-threads              2.4 9.0
    cpu-throttle-initial            2.7
    cpu-throttle-increment          2.7
    tls-creds                       2.7
    tls-hostname                    2.7
    max-bandwidth                   2.8
    downtime-limit                  2.8
    x-checkpoint-delay              2.8
    block-incremental               2.10 9.0
    xbzrle-cache-size               2.11
    max-postcopy-bandwidth          3.0
    max-cpu-throttle                3.1
    compress-wait-thread            3.1 9.0
    announce-initial                4.0
    announce-max                    4.0
    announce-rounds                 4.0
    announce-step                   4.0
    tls-authz                       4.0
    multifd-channels                4.0
    throttle-trigger-threshold      5.0
    multifd-compression             5.0
    multifd-zlib-level              5.0
    multifd-zstd-level              5.0
    cpu-throttle-tailslow           5.1
    block-bitmap-mapping            5.2
    vcpu-dirty-limit                8.1
    x-vcpu-dirty-limit-period       8.1
    avail-switchover-bandwidth      8.2
    mode                            8.2
    zero-page-detection             9.0
    direct-io                       9.1
    multifd-qatzip-level            9.2
    cpr-exec-command                10.2
    x-rdma-chunk-size               11.1
""")

#: ``command/argument``
ARGUMENTS = _table("""
    migrate/uri                    0.14
    migrate/blk                    0.14 9.0
    migrate/inc                    0.14 9.0
    migrate/detach                 0.14 10.2
    migrate/resume                 3.0
    migrate/channels               8.2
    migrate-incoming/uri           2.3
    migrate-incoming/channels      8.2
    migrate-incoming/exit-on-error 9.1
""")

_KINDS = MappingProxyType(
    {
        "cap": CAPABILITIES,
        "cmd": COMMANDS,
        "param": PARAMETERS,
        "status": STATUSES,
        "arg": ARGUMENTS,
    }
)


def span_of(need: str) -> Span | None:
    """From when to when a feature is promised.

    :param need: As of :meth:`.Facts.has`.
    """
    kind, _, name = need.partition(":")
    return _KINDS.get(kind, {}).get(name)
