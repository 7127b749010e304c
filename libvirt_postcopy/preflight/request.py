"""What the flags and parameters ask for, and whether post-copy goes with it."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.constants import MigrateFlags as Flags
from libvirt_postcopy.constants import MigrateParam
from libvirt_postcopy.features import MULTIFD_AND_POSTCOPY, version_text
from libvirt_postcopy.preflight.facts import Facts, known
from libvirt_postcopy.preflight.finding import Seen, Severity, check

__all__: list[str] = []

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_PREEMPT = 10_000_000  # libvirt that turns postcopy-preempt on by itself
_COMPRESS_ACCEPTED = 5_000_000  # QEMU that takes compress beside postcopy-ram
_PREEMPT_KNOWN = 7_001_000  # QEMU
_COMPRESS_GONE = 9_001_000  # QEMU
_RDMA_REFUSED = 10_002_000  # QEMU


@check(
    "request/tunnelled",
    severity=ERROR,
    side="source",
    cure="leave out --tunnelled; --tls encrypts without it",
)
def tunnelled(facts: Facts) -> Iterator[Seen]:
    """libvirt refuses post-copy through its own tunnel: pages could not be asked for."""
    if facts.request.has(Flags.VIR_MIGRATE_TUNNELLED):
        yield Seen("VIR_MIGRATE_TUNNELLED is asked for")


@check(
    "request/offline",
    severity=ERROR,
    side="source",
    cure="leave out --offline, or post-copy: an offline migration moves no memory",
)
def offline(facts: Facts) -> Iterator[Seen]:
    """An offline migration moves a definition and no memory; libvirt refuses the two together."""
    if facts.request.has(Flags.VIR_MIGRATE_OFFLINE):
        yield Seen("VIR_MIGRATE_OFFLINE is asked for")


@check(
    "request/suspend",
    severity=ERROR,
    side="source",
    cure="leave out --suspend; suspend the guest after the migration",
)
def suspend(facts: Facts) -> Iterator[Seen]:
    """libvirt refuses post-copy of a guest that is to stay paused on the destination."""
    if facts.request.has(Flags.VIR_MIGRATE_PAUSED):
        yield Seen("VIR_MIGRATE_PAUSED is asked for")


@check(
    "request/parallel",
    severity=ERROR,
    side="",
    cure="leave out --parallel, or use QEMU >= 10.1 on both hosts",
    fixed_in="QEMU 10.1",
)
def parallel(facts: Facts) -> Iterator[Seen]:
    """QEMU 8.1 to 10.0 refuses multifd beside post-copy, QEMU 7.2 dies at the end and takes the guest with it.
    From QEMU 10.1 the pair works, but with libvirt's own postcopy-preempt it was seen to stand still.
    """
    if not facts.request.has(Flags.VIR_MIGRATE_PARALLEL):
        return
    for side, host in (
        ("source", facts.source),
        ("destination", facts.the_destination),
    ):
        qemu = known(host.qemu)
        if qemu < MULTIFD_AND_POSTCOPY:
            text = (
                f"VIR_MIGRATE_PARALLEL is asked for, and QEMU is {version_text(qemu)}"
            )
            yield Seen(text, side=side)
            return
    if known(facts.source.libvirt) >= _PREEMPT:
        yield Seen(
            "VIR_MIGRATE_PARALLEL is asked for: multifd with postcopy-preempt was seen to stand still"
            " (libvirt 12.8, QEMU 11.1); it could be aborted",
            severity=WARNING,
            fixed_in="",
        )


@check(
    "request/compression",
    severity=ERROR,
    side="source",
    cure="leave out --compressed, or compress with xbzrle",
    fixed_in="QEMU 5.0 to 9.0, without postcopy-preempt",
)
def compression(facts: Facts) -> Iterator[Seen]:
    """Multi-threaded compression does not go with post-copy in QEMU before 5.0 and is gone from QEMU 9.1; between
    them postcopy-preempt refuses it.  xbzrle is accepted, but nothing is compressed after the switch.
    """
    if not facts.request.has(Flags.VIR_MIGRATE_COMPRESSED):
        return
    if "mt" not in _methods(facts):
        yield Seen(
            "VIR_MIGRATE_COMPRESSED is asked for: after the switch nothing is compressed",
            severity=NOTE,
            cure="",
            fixed_in="",
        )
        return
    yield from _multithreaded(known(facts.source.qemu), known(facts.source.libvirt))


def _methods(facts: Facts) -> list[str]:
    given = facts.request.params.get("compression", ())
    return given.split(",") if isinstance(given, str) else [str(each) for each in given]


def _multithreaded(qemu: int, libvirt: int) -> Iterator[Seen]:
    text = f"compression method mt is asked for, and QEMU is {version_text(qemu)}"
    if not _COMPRESS_ACCEPTED <= qemu < _COMPRESS_GONE:
        yield Seen(text, fixed_in="" if qemu >= _COMPRESS_GONE else None)
    elif qemu >= _PREEMPT_KNOWN and libvirt >= _PREEMPT:
        yield Seen(
            f"{text}, which refuses it beside postcopy-preempt",
            severity=WARNING,
            fixed_in="",
        )


@check(
    "request/rdma",
    severity=ERROR,
    side="source",
    cure="migrate over tcp: leave out the migration URI, or begin it with tcp:",
)
def rdma(facts: Facts) -> Iterator[Seen]:
    """QEMU from 10.2 refuses post-copy over RDMA; older ones accept it and nobody vouches for it."""
    if not facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_URI).startswith("rdma:"):
        return
    qemu = known(facts.source.qemu)
    yield Seen(
        f"the migration URI begins with rdma:, and QEMU is {version_text(qemu)}",
        severity=ERROR if qemu >= _RDMA_REFUSED else WARNING,
    )


@check(
    "request/unencrypted",
    severity=NOTE,
    side="",
    cure="set up certificates for QEMU on both hosts and give --tls",
)
def unencrypted(facts: Facts) -> Iterator[Seen]:
    """Without TLS all of the guest's memory, its keys and passwords too, crosses the network as plain text."""
    is_local = facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_URI).startswith(
        "unix:"
    )
    if not facts.request.has(Flags.VIR_MIGRATE_TLS) and not is_local:
        yield Seen("VIR_MIGRATE_TLS is not asked for: memory is sent as plain text")


@check(
    "request/tls-files",
    severity=WARNING,
    side="source",
    cure="put QEMU's certificates there on both hosts; migrate_tls_x509_cert_dir in qemu.conf names the folder",
)
def tls_files(facts: Facts) -> Iterator[Seen]:
    """With TLS, QEMU reads its certificates when the migration begins, and fails where they are missing."""
    if not facts.request.has(Flags.VIR_MIGRATE_TLS):
        return
    files = known(facts.tls_files)
    if files.missing:
        yield Seen(f"{files.folder} has no {', no '.join(files.missing)}")


@check(
    "request/storage-copy",
    severity=NOTE,
    side="",
    cure="share the disks where you can",
)
def storage_copy(facts: Facts) -> Iterator[Seen]:
    """Disks are copied before memory is.  After the switch only the destination's copy is current: if the guest is
    lost then, the source's disks are those of the moment of the switch."""
    if facts.request.has(
        Flags.VIR_MIGRATE_NON_SHARED_DISK | Flags.VIR_MIGRATE_NON_SHARED_INC
    ):
        yield Seen("disks are copied: after the switch the source's are out of date")
