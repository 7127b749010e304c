"""Scenarios without a migration: what a QEMU says of itself, and what it refuses."""

from __future__ import annotations

import contextlib

from libvirt_postcopy.conformance.introspection import QUESTIONS
from libvirt_postcopy.conformance.monitor import Hung
from libvirt_postcopy.conformance.pair import Pair, Refused, Setup
from libvirt_postcopy.conformance.scenarios.base import scenario

__all__ = ["PARTNERS"]

#: Capabilities whose company with post-copy has rules.
PARTNERS = (
    "compress",
    "multifd",
    "x-ignore-shared",
    "background-snapshot",
    "mapped-ram",
    "zero-copy-send",
    "xbzrle",
    "release-ram",
    "return-path",
    "auto-converge",
    "dirty-bitmaps",
    "validate-uuid",
    "pause-before-switchover",
    "late-block-activate",
    "postcopy-blocktime",
    "postcopy-preempt",
)


@scenario("introspection", Setup(is_alone=True), needs=(), quick=True)
def introspection(pair: Pair) -> None:
    """Ask an idle QEMU all that it tells about itself."""
    src = pair.src
    for name in QUESTIONS:
        src.cmd(name)
    src.cmd("device-list-properties", {"typename": "migration"})
    if src.cmd("object-add", {"qom-type": "tls-creds-anon", "id": "probe"}).is_ok:
        src.cmd("object-del", {"id": "probe"})
    for number in ("a string", 4711, {"an": ["object", None]}):
        src.machine.monitor.send({"execute": "query-status", "id": number})
    with contextlib.suppress(Hung):
        src.machine.monitor.send({"exec-oob": "query-status", "id": "out of band"})
    src.cmd("query-status")


@scenario("refusals", quick=True)
def refusals(pair: Pair) -> None:
    """Ask for everything at a wrong time, on both sides, before there is a migration."""
    for side in pair.sides:
        side.cmd("migrate-start-postcopy")
        side.cmd("migrate_cancel")
        side.cmd("migrate-pause")
        side.cmd("migrate-recover", {"uri": "tcp:127.0.0.1:0"})
        side.cmd("migrate-continue", {"state": "pre-switchover"})
        side.capabilities({"no-such-capability": True, "events": True})
        side.cmd("query-migrate-capabilities")
        side.capabilities({"xbzrle": True})
        side.cmd("migrate-set-capabilities", {"capabilities": [
            {"capability": "xbzrle", "state": True},
            {"capability": "xbzrle", "state": False},
        ]})  # fmt: skip
        side.cmd("query-migrate-capabilities")
    pair.prepare()
    for side in pair.sides:
        side.cmd("migrate-start-postcopy")
    pair.src.cmd("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
    pair.src.cmd("migrate", {"uri": "tcp:127.0.0.1:1", "resume": True})
    pair.dst.cmd("migrate", {"uri": "tcp:127.0.0.1:1"})
    pair.look()


@scenario("capability-pairs")
def capability_pairs(pair: Pair) -> None:
    """Set post-copy together with each capability whose company has rules, on both sides."""
    for side in pair.sides:
        for partner in PARTNERS:
            if partner not in pair.facts.capabilities:
                continue
            side.capabilities({pair.postcopy: True, partner: True})
            side.cmd("query-migrate-capabilities")
            side.capabilities({partner: False})
            side.capabilities({pair.postcopy: False})
        if "postcopy-preempt" in pair.facts.capabilities:
            side.capabilities({"postcopy-preempt": True})
            side.capabilities({pair.postcopy: True, "postcopy-preempt": True})
            side.capabilities({pair.postcopy: False})
            side.cmd("query-migrate-capabilities")
            if "compress" in pair.facts.capabilities:
                side.capabilities({pair.postcopy: True, "postcopy-preempt": True, "compress": True})  # fmt: skip
                side.cmd("query-migrate-capabilities")
                side.capabilities({"compress": False})
            side.capabilities({"postcopy-preempt": False})


@scenario("listening")
def listening(pair: Pair) -> None:
    """Set capabilities on a destination that listens already, and let it listen twice."""
    pair.prepare()
    pair.listen()
    pair.dst.cmd("query-migrate")
    pair.dst.cmd("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
    for name in ("postcopy-preempt", "multifd"):
        if name in pair.facts.capabilities:
            pair.dst.capabilities({name: True})
            pair.dst.cmd("query-migrate-capabilities")
            pair.dst.capabilities({name: False})
    pair.limit()
    pair.migrate()
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.finish()


@scenario("incoming-bad-address")
def incoming_bad_address(pair: Pair) -> None:
    """Let the destination listen where it cannot, then where it can."""
    pair.prepare()
    pair.dst.cmd("migrate-incoming", {"uri": "unix:/nonexistent/folder/mig.sock"})
    pair.dst.cmd("query-migrate")
    pair.listen()
    pair.limit()
    pair.migrate()
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.finish()


@scenario("file-backend-disk", Setup(
    dst_memory=("-m", "64", "-object", "memory-backend-file,id=ram,size=64M,mem-path={disk}/ram,share=on",),
))  # fmt: skip
def file_backend_disk(pair: Pair) -> None:
    """Ask for post-copy into memory that lies on a disk."""
    pair.dst.capabilities({pair.postcopy: True})
    pair.dst.cmd("query-migrate-capabilities")


@scenario("cpr", needs=("cap:postcopy-ram", "param:mode"))
def cpr(pair: Pair) -> None:
    """Ask for a migration in a cpr mode while post-copy is set."""
    pair.prepare()
    pair.listen()
    answer = pair.src.parameters({"mode": "cpr-reboot"})
    if not answer.is_ok:
        raise Refused(f"no cpr-reboot here: {answer.desc}")
    pair.migrate()
    pair.src.cmd("query-migrate")


@scenario(
    "no-userfaultfd",
    Setup(dst_is_unprivileged=True, needs=("unprivileged",)),
    quick=True,
)
def no_userfaultfd(pair: Pair) -> None:
    """Ask for post-copy where the QEMU may not use userfaultfd."""
    pair.dst.capabilities({pair.postcopy: True})
    pair.dst.cmd("query-migrate-capabilities")
