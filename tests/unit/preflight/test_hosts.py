from __future__ import annotations

from dataclasses import replace

import pytest

from libvirt_postcopy.domxml import CPU
from libvirt_postcopy.events import Half
from libvirt_postcopy.preflight.facts import (
    DomainThere,
    Facts,
    Link,
    Memory,
    Probe,
    Unknown,
)
from libvirt_postcopy.preflight.finding import Severity, Verdict
from unit.preflight.scene import (
    CAPABILITIES,
    GIB,
    GOOD,
    UUID,
    XEON,
    asked,
    destination,
    guest,
    one,
    seen,
    source,
    verdict,
)

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
NO_PROBE = Unknown("only QEMU there can tell; --probe asks it")


def test_destination_that_this_client_cannot_reach() -> None:
    """The source may, so it is no error."""
    facts = replace(GOOD, connection_refusal="no route to host")
    found = one("destination/connection", facts)
    assert found.severity is WARNING and "no route to host" in found.evidence


def test_source_is_the_destination() -> None:
    found = one("destination/same-host", destination(uuid="aaaa"))
    assert found.severity is ERROR and "aaaa" in found.evidence


# Domains that are there


def there(name: str = "web1", uuid: str = UUID, *, active: bool = True, half: Half = Half.WHOLE) -> Facts:  # fmt: skip
    return replace(GOOD, domains=(DomainThere(name, uuid, active, half),))


@pytest.mark.parametrize(
    "facts, severity, words",
    [
        (there(), ERROR, "runs there already"),
        (there(uuid="other"), ERROR, "'web1' is taken there by a domain with UUID other"),
        (there(uuid="other", active=False), ERROR, "is taken there"),
        (there("db1"), ERROR, "is taken there by domain 'db1'"),
        (there("db1", active=False), ERROR, "is taken there by domain 'db1'"),
        (there(active=False), NOTE, "will be used"),
    ],
)  # fmt: skip
def test_domain_there(facts: Facts, severity: Severity, words: str) -> None:
    found = one("destination/domain-exists", facts)
    assert found.severity is severity and words in found.evidence


@pytest.mark.parametrize("half", [Half.SPLIT, Half.SPLIT_FAILED, Half.MIGRATING])
@pytest.mark.parametrize("name", ["web1", "renamed"])
def test_other_half_is_to_be_left_alone(name: str, half: Half) -> None:
    found = one("destination/domain-exists", there(name, half=half))
    assert found.severity is ERROR
    assert found.cure == "destroy, resume and reset neither half"


def test_other_domain_is_none_of_our_business() -> None:
    assert seen("destination/domain-exists", there("db1", "other")) == []


def test_name_that_the_guest_is_given_counts() -> None:
    renamed = asked(destination_name="db1")
    facts = replace(there("db1", "other"), request=renamed.request)
    assert "'db1' is taken" in one("destination/domain-exists", facts).evidence
    facts = replace(there("web1", "other"), request=renamed.request)
    assert seen("destination/domain-exists", facts) == []


def test_on_the_same_host_it_is_the_guest_itself() -> None:
    facts = destination(there(), uuid="aaaa")
    assert seen("destination/domain-exists", facts) == []


# Memory


@pytest.mark.parametrize("changes", [{"memory_kib": 65 * GIB}, {"limit_kib": 128 * GIB}])  # fmt: skip
def test_guest_that_may_outgrow_the_host(changes: dict[str, int]) -> None:
    found = one("destination/memory", guest(**changes))
    assert found.severity is WARNING and "65536 MiB in all" in found.evidence


def test_guest_that_is_bigger_than_what_is_free() -> None:
    facts = guest(memory_kib=40 * GIB, current_kib=33 * GIB)
    found = one("destination/memory", facts)
    assert "33792 MiB, and 32768 MiB of 65536 MiB are free" in found.evidence


@pytest.mark.parametrize("changes", [{"memory_kib": 64 * GIB}, {"current_kib": 32 * GIB}])  # fmt: skip
def test_guest_that_just_fits(changes: dict[str, int]) -> None:
    assert seen("destination/memory", guest(**changes)) == []


def test_balloon_gives_memory_back() -> None:
    assert seen("destination/memory", guest(memory_kib=40 * GIB)) == []


def test_free_memory_is_not_what_huge_pages_are_of() -> None:
    facts = replace(guest(huge_pages_kib=(2048,)), memory=Memory(64 * GIB, 1))
    assert seen("destination/memory", facts) == []


@pytest.mark.parametrize(
    "free, has",
    [
        ({}, 0),
        ({2048: 0}, 0),
        ({2048: 2047}, 4094),
        ({GIB: 100}, 0),
        ({2048: 2048}, None),
    ],
)
def test_huge_pages_that_are_free(free: dict[int, int], has: int | None) -> None:
    facts = replace(guest(huge_pages_kib=(2048,)), free_pages=free)
    found = seen("destination/huge-pages", facts)
    assert len(found) == (has is not None)
    for each in found:
        assert each.severity is ERROR and f"and {has} MiB are free" in each.evidence
        assert "4096 MiB in pages of 2 MiB" in each.evidence


def test_huge_pages_of_an_unknown_size() -> None:
    assert one("destination/huge-pages", guest(huge_pages_kib=(0,))).is_unknown


# QEMU and CPU


def test_machine_type_that_is_not_there() -> None:
    words = "the machine 'pc-i440fx-9.2' is not supported by emulator '/usr/bin/q'"
    found = one("destination/emulation", replace(GOOD, emulation=words))
    assert found.severity is ERROR and found.evidence == words


@pytest.mark.parametrize(
    "virt_type, check, severity",
    [
        ("kvm", "full", ERROR),
        ("kvm", "partial", ERROR),
        ("kvm", "none", WARNING),
        ("kvm", "", WARNING),
        ("qemu", "full", WARNING),
    ],
)
def test_cpu_that_the_host_cannot_give(
    virt_type: str, check: str, severity: Severity
) -> None:
    facts = guest(virt_type=virt_type, cpu=CPU("custom", check, "<cpu/>"))
    found = one("destination/cpu", replace(facts, cpu_refusal="lacks avx512"))
    assert found.severity is severity and found.evidence == "lacks avx512"


def test_guest_without_a_cpu_has_nothing_to_lose() -> None:
    facts = replace(guest(cpu=None), cpu_refusal=Unknown("not compared"))
    assert verdict("destination/cpu", facts) is Verdict.CLEAR


def test_cpu_as_it_is_needs_the_same_cpu() -> None:
    facts = guest(cpu=CPU("host-passthrough", "none", "<cpu/>"))
    facts = replace(facts, cpu_refusal="there is no model to compare")
    assert seen("destination/cpu", facts) == []
    older = replace(XEON, model="OldXeon", features=frozenset(("pcid",)))
    found = one("destination/cpu", destination(facts, cpu=older))
    assert found.severity is WARNING
    assert "OldXeon" in found.evidence and "lacks avx512" in found.evidence


# What QEMU needs to receive


@pytest.mark.parametrize("refusal", ["Postcopy is not supported", "Postcopy is not supported: Userfaultfd not available: Operation not permitted"])  # fmt: skip
def test_qemu_that_refuses(refusal: str) -> None:
    facts = replace(GOOD, probe=Probe(7_002_000, CAPABILITIES, refusal))
    found = one("destination/userfaultfd", facts)
    assert found.severity is ERROR and refusal in found.evidence
    assert "let QEMU use userfaultfd" in found.cure
    assert "unprivileged_userfaultfd=1" in found.cure


def test_qemu_that_agrees_settles_it() -> None:
    assert seen("destination/userfaultfd", replace(GOOD, userfaultfd=False)) == []


@pytest.mark.parametrize(
    "libvirt, qemu, words",
    [
        (10_001_000, 8_000_000, "needs access to /dev/userfaultfd"),
        (10_000_000, 8_000_000, "does not use /dev/userfaultfd"),
        (10_001_000, 7_002_000, "does not use /dev/userfaultfd"),
    ],
)
def test_kernel_that_forbids_it(libvirt: int, qemu: int, words: str) -> None:
    facts = replace(GOOD, userfaultfd=False, probe=NO_PROBE)
    found = one("destination/userfaultfd", destination(facts, libvirt=libvirt, qemu=qemu))  # fmt: skip
    assert found.severity is WARNING and words in found.evidence
    assert bool(found.fixed_in) is ("does not use" in words)


def test_kernel_that_allows_it_to_everybody() -> None:
    assert seen("destination/userfaultfd", replace(GOOD, probe=NO_PROBE)) == []


def test_without_a_probe_it_is_unknown_from_outside() -> None:
    facts = replace(GOOD, probe=NO_PROBE, userfaultfd=NO_PROBE)
    assert "--probe" in one("destination/userfaultfd", facts).evidence


def test_probe_that_failed_says_so() -> None:
    failed = Unknown("the probe failed: no such machine")
    facts = replace(GOOD, probe=failed, userfaultfd=NO_PROBE)
    for id in ("destination/userfaultfd", "destination/capability"):
        assert "no such machine" in one(id, facts).evidence


def test_qemu_there_without_postcopy() -> None:
    facts = replace(GOOD, probe=Probe(2_005_000, frozenset(("xbzrle",))))
    assert one("destination/capability", facts).severity is ERROR


def test_probe_that_could_not_be_destroyed() -> None:
    facts = replace(GOOD, probe=Probe(10_002_000, CAPABILITIES, left_behind="p-1"))
    found = one("destination/probe-left", facts)
    assert found.severity is WARNING and "'p-1'" in found.evidence


# The way


@pytest.mark.parametrize("name", ["localhost", "localhost.localdomain"])
def test_destination_that_calls_itself_localhost(name: str) -> None:
    facts = destination(hostname=name)
    assert one("link/localhost", facts).severity is WARNING
    named = replace(facts, request=asked(migrate_uri="tcp://192.0.2.1").request)
    assert seen("link/localhost", named) == []


def test_name_that_the_source_cannot_resolve() -> None:
    facts = replace(GOOD, link=Link("b.example", False, 49152, Unknown("no name")))
    found = one("link/name", facts)
    assert found.severity is WARNING and "'b.example'" in found.evidence
    assert one("link/port", facts).is_unknown


def test_port_that_does_not_answer() -> None:
    facts = replace(GOOD, link=Link("b", True, 49152, "no answer in 2 s"))
    found = one("link/port", facts)
    assert found.severity is WARNING
    assert "b:49152 cannot be reached: no answer in 2 s" in found.evidence


def test_connection_without_keepalive() -> None:
    found = one("link/keepalive", destination(has_keepalive=False))
    assert found.severity is WARNING and "qemu+tls://b/system" in found.evidence


def test_unknown_keepalive_of_one_does_not_hide_the_other() -> None:
    facts = source(destination(has_keepalive=False), has_keepalive=Unknown("given"))
    missing, unknown = seen("link/keepalive", facts)
    assert "//b/" in missing.evidence and unknown.is_unknown
