"""Known deviations: which check does not pass on which released QEMU, and why.

A check that fails on a version that is listed here, and in the way that is described here, is *known*; on any other
version, or in another way, it is a fail.  So spans have an end: the next release has to show again what it does.  A
version whose packager has mended it passes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from libvirt_postcopy.conformance.known import in_range

__all__ = ["DEVIATIONS", "Deviation", "known"]


@dataclass(frozen=True)
class Deviation:
    """A defect, or a change without notice, of released versions."""

    check: str
    versions: str  #: as ``5.2 7.1-9.2``
    symptom: str  #: what the check sees then: a regular expression for all of :attr:`.Finding.actual`
    text: str  #: what happens
    does: str  #: what a client does about it
    link: str


_GIT = "https://gitlab.com/qemu-project/qemu/-/blob/master"

DEVIATIONS: Sequence[Deviation] = (
    # Certain with a shutdown(2) that returns 0.3 s late: in 5.2, 7.2 and 10.0 each time, in 11.1 not once.
    Deviation("cancel/active", "2.5-10.0", "failed", "a migrate_cancel in pre-copy can end in failed, as it shuts the return path before it sets cancelling, and the thread that sends may meet that first; the guest runs on on the source", "after a cancel take failed for cancelled", f"{_GIT}/migration/migration.c"),
    Deviation("cancel/postcopy", "2.5-9.2", r"\{\}", "migrate_cancel in post-copy is accepted; the guest is lost", "never send it in post-copy", f"{_GIT}/migration/migration.c"),
    Deviation("cancel/postcopy", "5.2", "src ended by itself: signal 11", "the source can die of migrate_cancel in post-copy before it answers", "never send it in post-copy", f"{_GIT}/migration/migration.c"),
    Deviation("cancel/postcopy", "8.1", "src ended by itself: signal 6", "the source aborts at migrate_cancel in post-copy", "never send it in post-copy", f"{_GIT}/migration/migration.c"),
    Deviation("cancel/paused", "3.0-9.2", r"\{\}", "migrate_cancel of a broken post-copy is accepted; recovery is impossible then", "never send it after the switch", f"{_GIT}/migration/migration.c"),
    Deviation("cancel/pre-switchover-postcopy", "2.11-9.2", "postmigrate", "the guest is left stopped", "send cont after cancelled", f"{_GIT}/migration/migration.c"),
    Deviation("recover/nobody-then-good", "3.0-5.2 7.2", "src ended by itself: signal (6|11)", "the source aborts in the resume after a refused one (7.2: sometimes, if it follows at once); the guest is lost", "see that migrate-recover succeeded on the destination before resume; do not probe by connecting", f"{_GIT}/migration/migration.c"),
    Deviation("recover/bad-uri-then-good", "3.0-7.0", "refused: Migrate recovery is triggered already", "a second migrate-recover says 'already triggered'; recovery is impossible", "be sure that the address is free before migrate-recover", f"{_GIT}/migration/migration.c"),
    Deviation("recover/tls-without-credentials", "5.2 7.2 11.1", "dst ended by itself: (signal 11|exit status 1)", "the destination dies of the connection that the source opens and closes; the guest is lost", "check that the object exists before tls-creds is set", f"{_GIT}/migration/tls.c"),
    Deviation("recover/empty-connection", "5.2 7.2 11.1", "dst ended by itself: (signal 11|exit status 1)", "the destination dies (5.2, 7.2: SIGSEGV; 11.1: exit status 1); the guest is lost", "let nobody else reach the address of a recovery, and do not probe it by connecting", f"{_GIT}/migration/migration.c"),
    Deviation("recover/tls", "5.2", "src ended by itself: signal (6|11)", "the source dies of memory that it frees twice; the guest is lost", "do not break post-copy over TLS there: use another network, or upgrade before", f"{_GIT}/migration/tls.c"),
    Deviation("start/converged", "11.1", "dst ended by itself: exit status 1", "the destination can fail as post-copy begins and ends at once; the source runs on", "migrate again", f"{_GIT}/migration/savevm.c"),
    Deviation("incoming/bad-address-then-good", "10.0-11.1", "refused: Illegal migration incoming state: setup", "the destination stays in setup for ever", "start another QEMU", f"{_GIT}/migration/migration.c"),
    Deviation("incoming/paused-guest-autostart", "2.5-11.1", "the guest runs there", "a guest that its user had stopped runs after post-copy", "start the destination with -S", f"{_GIT}/migration/postcopy-ram.c"),
    Deviation("incoming/early-cont", "2.5-11.1", "the guest runs", "an early cont undoes -S", "send cont only after the source's postcopy-active", f"{_GIT}/system/cpus.c"),
    Deviation("switch/cut-never-two", "10.2-11.1", "it runs on dst and src", "source and destination both run", "start the destination with -S and send cont after the source's postcopy-active", f"{_GIT}/migration/migration.c"),
    Deviation("mismatch/preempt-source", "10.2-11.1", "it runs on dst and src", "source and destination both run", "set preempt on both, read it back, start with -S", f"{_GIT}/migration/migration.c"),
    Deviation("mismatch/preempt-destination", "7.1-11.1", "it hangs", "the migration hangs", "set preempt on both and read it back", f"{_GIT}/migration/postcopy-ram.c"),
    Deviation("switch/device-state-rejected", "2.5-10.1", "the guest is lost", "the source does not run on; the guest is lost", "compare machine types and devices before", f"{_GIT}/migration/migration.c"),
    Deviation("robust/migrate-on-destination", "2.5-11.1", r"\{\}|setup|dst ended by itself: signal 6", "accepted (5.2), a wrong status for ever (7.2, 10.0), an abort (11.1)", "never send it", f"{_GIT}/util/yank.c"),
    Deviation("robust/abuse", "5.2", "none to device_add", "the destination's monitor answers neither device_add nor anything after it", "plug nothing in post-copy", f"{_GIT}/migration/savevm.c"),
    Deviation("robust/multifd", "4.0-8.0", "dst ended by itself: signal 6", "the destination aborts at the end, or it hangs", "do not use both below 10.1", f"{_GIT}/util/yank.c"),
    Deviation("robust/stop-cont-with-blocktime", "10.1-11.1", "dst ended by itself: signal 6", "an assertion fails under KVM", "leave blocktime off", f"{_GIT}/migration/postcopy-ram.c"),
    Deviation("numbers/first-pass", "11.0-11.1", "pass 2", "the first MIGRATION_PASS is 2", "count passes by bytes", f"{_GIT}/migration/ram.c"),
    Deviation("numbers/latency-distribution", "10.1-11.1", r"\d+ ns", "the mean contradicts the distribution", "use the distribution", f"{_GIT}/migration/postcopy-ram.c"),
    Deviation("numbers/downtime-is-the-sources", "2.5-11.1", r"\d+ ms", "a downtime below 1 ms is counted anew at the end: as the host's uptime (seen with 5.2), or as all of post-copy (11.1)", "read it in post-copy, or measure from STOP to RESUME", f"{_GIT}/migration/migration.c"),
    Deviation("transport/fd-preempt", "7.1-7.2", r"\{\}", "accepted, then failed without a reason", "use tcp or unix with preempt", f"{_GIT}/migration/channel.c"),
    Deviation("recover/fd-preempt", "7.1-7.2", "none to migrate", "migrate-recover accepts it, and the source's monitor hangs in the resume; the guest is lost", "recover over tcp or unix with preempt", f"{_GIT}/migration/channel.c"),
    Deviation("introspection/migrationthreads", "7.2", "absent", "documented since 7.2, and not there", "ask query-commands", f"{_GIT}/qapi/migration.json"),
    Deviation("capabilities/read-back", "2.5-2.9", "it reads back False", "compress switches post-copy off without an error", "read capabilities back", f"{_GIT}/migration/migration.c"),
)  # fmt: skip


def known(check: str, version: tuple[int, ...], actual: str) -> Deviation | None:
    """The deviation that explains why a check does not pass on a version.

    :param actual: What the check saw.
    """
    for each in DEVIATIONS:
        is_there = each.check == check and in_range(version, each.versions)
        if is_there and re.fullmatch(each.symptom, actual, re.DOTALL):
            return each
    return None
