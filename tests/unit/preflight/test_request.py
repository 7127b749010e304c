from __future__ import annotations

from dataclasses import replace

import pytest

from libvirt_postcopy.constants import MigrateFlags as Flags
from libvirt_postcopy.preflight.facts import Facts, Request, TlsFiles, Unknown
from libvirt_postcopy.preflight.finding import Severity
from unit.preflight.scene import GOOD, asked, destination, one, seen, source

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@pytest.mark.parametrize(
    "id, flag",
    [
        ("request/tunnelled", Flags.VIR_MIGRATE_TUNNELLED),
        ("request/offline", Flags.VIR_MIGRATE_OFFLINE),
        ("request/suspend", Flags.VIR_MIGRATE_PAUSED),
    ],
)
def test_what_libvirt_refuses_beside_postcopy(id: str, flag: Flags) -> None:
    found = one(id, asked(flag))
    assert found.severity is ERROR and flag.name is not None
    assert flag.name in found.evidence


def both_qemus(version: int, facts: Facts) -> Facts:
    return source(destination(facts, qemu=version), qemu=version)


PARALLEL = asked(Flags.VIR_MIGRATE_PARALLEL)


@pytest.mark.parametrize("version, text", [(7_002_022, "7.2.22"), (10_000_013, "10.0.13")])  # fmt: skip
def test_parallel_needs_a_new_qemu(version: int, text: str) -> None:
    found = one("request/parallel", both_qemus(version, PARALLEL))
    assert found.severity is ERROR and text in found.evidence
    assert (found.side, found.fixed_in) == ("source", "QEMU 10.1")


def test_parallel_needs_a_new_qemu_there_too() -> None:
    facts = destination(PARALLEL, qemu=10_000_000)
    assert one("request/parallel", facts).side == "destination"


def test_parallel_with_preempt_is_a_warning() -> None:
    facts = both_qemus(10_001_000, PARALLEL)
    assert one("request/parallel", facts).severity is WARNING
    assert one("request/parallel", facts).fixed_in == "", "they have that version"
    assert one("request/parallel", source(facts, libvirt=10_000_000))
    assert seen("request/parallel", source(facts, libvirt=9_010_000)) == []


@pytest.mark.parametrize("methods", ["mt", "xbzrle,mt", ["mt"], ["xbzrle", "mt"]])
@pytest.mark.parametrize(
    "qemu, libvirt, severity",
    [
        (4_002_000, 9_000_000, ERROR),
        (5_000_000, 9_000_000, None),
        (7_002_000, 9_000_000, None),
        (7_000_000, 10_000_000, None),
        (7_001_000, 10_000_000, WARNING),
        (9_000_000, 12_000_000, WARNING),
        (9_001_000, 12_000_000, ERROR),
    ],
)
def test_multithreaded_compression(
    methods: object, qemu: int, libvirt: int, severity: Severity | None
) -> None:
    facts = asked(Flags.VIR_MIGRATE_COMPRESSED, compression=methods)
    found = seen("request/compression", source(facts, qemu=qemu, libvirt=libvirt))
    assert [each.severity for each in found] == [severity] * (severity is not None)
    assert all(bool(each.fixed_in) is (qemu < 5_000_000) for each in found)


@pytest.mark.parametrize("params", [{}, {"compression": "xbzrle"}])
def test_other_compression_is_a_note(params: dict[str, str]) -> None:
    found = one("request/compression", asked(Flags.VIR_MIGRATE_COMPRESSED, **params))
    assert (found.severity, found.cure) == (NOTE, "")


@pytest.mark.parametrize("qemu, severity", [(10_001_000, WARNING), (10_002_000, ERROR)])  # fmt: skip
def test_rdma(qemu: int, severity: Severity) -> None:
    facts = source(asked(migrate_uri="rdma://b"), qemu=qemu)
    assert one("request/rdma", facts).severity is severity
    assert seen("request/rdma", asked(migrate_uri="tcp://b")) == []


def test_plain_text_is_a_note() -> None:
    plain = replace(GOOD, request=Request())
    assert one("request/unencrypted", plain).severity is NOTE
    assert seen("request/unencrypted", asked()) == []
    local = replace(GOOD, request=Request(0, {"migrate_uri": "unix:/run/m"}))
    assert seen("request/unencrypted", local) == []


def test_tls_without_its_files() -> None:
    without = TlsFiles("/etc/pki/qemu", ("ca-cert.pem", "client-cert.pem"))
    found = one("request/tls-files", replace(GOOD, tls_files=without))
    assert found.severity is WARNING
    assert "/etc/pki/qemu has no ca-cert.pem, no client-cert.pem" in found.evidence


def test_tls_files_that_cannot_be_seen() -> None:
    away = replace(GOOD, tls_files=Unknown("elsewhere"))
    assert one("request/tls-files", away).is_unknown
    assert seen("request/tls-files", replace(away, request=Request())) == []


@pytest.mark.parametrize("flag", [Flags.VIR_MIGRATE_NON_SHARED_DISK, Flags.VIR_MIGRATE_NON_SHARED_INC])  # fmt: skip
def test_storage_copy_is_a_note(flag: Flags) -> None:
    assert one("request/storage-copy", asked(flag)).severity is NOTE
