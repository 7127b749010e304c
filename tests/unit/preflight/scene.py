"""A pair of hosts and a guest with which nothing is wrong, and what to change about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.domxml import CPU, Guest, HostCPU
from libvirt_postcopy.preflight.facts import (
    Facts,
    Host,
    Link,
    Memory,
    Probe,
    Request,
    Source,
    TlsFiles,
)
from libvirt_postcopy.preflight.finding import CHECKS, Finding, Verdict, look

UUID = "6f0b2a3c-6d3f-4d0a-9c55-1f2e3d4c5b6a"
GIB = 1 << 20  # KiB

CAPABILITIES = frozenset(("postcopy-ram", "postcopy-preempt", "multifd"))
LATEST_LIBVIRT, LATEST_QEMU = 12_008_000, 10_002_000

XEON = HostCPU("Xeon", "Intel", frozenset(("avx512", "pcid")))

A = Host(
    uri="qemu+tls://a/system",
    hostname="a",
    uuid="aaaa",
    libvirt=LATEST_LIBVIRT,
    qemu=LATEST_QEMU,
    has_keepalive=True,
    cpu=XEON,
)
B = replace(A, uri="qemu+tls://b/system", hostname="b", uuid="bbbb")

GUEST = Guest(
    name="web1",
    uuid=UUID,
    virt_type="kvm",
    arch="x86_64",
    machine="pc-q35-9.2",
    emulator="/usr/bin/qemu-system-x86_64",
    memory_kib=4 * GIB,
    current_kib=4 * GIB,
    cpu=CPU("custom", "full", "<cpu mode='custom'/>"),
)

DOMAIN = Source(
    name="web1",
    guest=GUEST,
    is_running=True,
    is_paused=False,
    has_job=False,
    capabilities=CAPABILITIES,
    blockers=(),
    disk_places=(),
    qemu=LATEST_QEMU,
)

GOOD = Facts(
    request=Request(MigrateFlags.VIR_MIGRATE_TLS),
    source=A,
    destination=B,
    domain=DOMAIN,
    there=GUEST,
    domains=(),
    memory=Memory(64 * GIB, 32 * GIB),
    free_pages={},
    emulation="",
    cpu_refusal="",
    userfaultfd=True,
    probe=Probe(LATEST_QEMU, CAPABILITIES),
    link=Link("b", True, 49152, ""),
    tls_files=TlsFiles("/etc/pki/qemu", ()),
    bindings="",
    client="libvirt-python 11.3.0, libvirt 11.3.0",
)


def asked(flags: int = 0, **params: Any) -> Facts:
    """The good pair with other flags, TLS among them, and parameters (a dot is written as __)."""
    named = {name.replace("__", "."): value for name, value in params.items()}
    return replace(GOOD, request=Request(flags | MigrateFlags.VIR_MIGRATE_TLS, named))


def guest(**changes: Any) -> Facts:
    """The good pair with another guest."""
    other = replace(GUEST, **changes)
    return replace(GOOD, domain=replace(DOMAIN, guest=other), there=other)


def domain(**changes: Any) -> Facts:
    """The good pair with the guest in another state."""
    return replace(GOOD, domain=replace(DOMAIN, **changes))


def source(facts: Facts = GOOD, **changes: Any) -> Facts:
    """With another source."""
    return replace(facts, source=replace(facts.source, **changes))


def destination(facts: Facts = GOOD, **changes: Any) -> Facts:
    """With another destination."""
    assert facts.destination is not None
    return replace(facts, destination=replace(facts.destination, **changes))


def seen(id: str, facts: Facts) -> list[Finding]:
    """What one check finds."""
    return look(CHECKS[id], facts)[1]


def verdict(id: str, facts: Facts) -> Verdict:
    return look(CHECKS[id], facts)[0]


def one(id: str, facts: Facts) -> Finding:
    """The one finding of a check."""
    found = seen(id, facts)
    assert len(found) == 1, found
    return found[0]
