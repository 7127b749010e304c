"""The preflight, between two real hosts: what is found is there, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from commands import URI, virsh_postcopy
from jsonschema import Draft202012Validator
from observers import Awaited

import libvirt_postcopy as postcopy
from labkit import Lab
from libvirt_postcopy.events import PassSeen, StatusSeen
from libvirt_postcopy.preflight import Report, Severity, before_migration
from libvirt_postcopy.vir import probe as vir_probe
from scenes.stage import TOP, VENV, Stage
from waiting import wait_until

Check = Callable[[], None]
SCHEMA = json.loads((TOP / "schemas" / "check.schema.json").read_text())
OTHER_UUID = "00000000-0000-4000-8000-000000000001"


def ids(report: Report, severity: Severity) -> list[str]:
    return [each.id for each in report.findings if each.severity is severity]


def errors(report: Report) -> list[str]:
    return ids(report, Severity.ERROR)


def domains(stage: Stage, host: str = "b") -> set[str]:
    return {dom.UUIDString() for dom in stage.connection(host).listAllDomains()}


@pytest.fixture
def unchanged(stage: Stage) -> Iterator[None]:
    """Asserts that the test leaves no domain on b that was not there."""
    before = domains(stage)
    yield
    assert domains(stage) == before


# A good pair


def test_good_pair_has_neither_error_nor_warning(
    stage: Stage, stayed: Check, unchanged: None
) -> None:
    report = postcopy.check(stage.start(), URI, probe=True)
    assert (report.errors, report.warnings) == ((), ()), str(report)
    assert report.checks["destination/userfaultfd"].value == "clear"
    assert report.checks["destination/cpu"].value == "clear"
    # Only the source itself could tell these: the client is a third machine.
    assert {each.id for each in report.unknown} == {"link/name", "link/port"}
    stayed()


def test_what_is_good_moves(stage: Stage, moved: Check) -> None:
    """A report without an error is a promise."""
    dom = stage.start()
    assert postcopy.check(dom, URI, probe=True).is_ok
    postcopy.migrate(dom, URI)
    moved()


def test_without_a_probe_no_domain_is_started(stage: Stage) -> None:
    started: list[str] = []
    dom = stage.start()
    connection = libvirt.open(stage.lab.host("b").uri)

    def on_event(conn: Any, dom: Any, event: int, detail: int, opaque: Any) -> None:
        started.append(dom.name())

    number = connection.domainEventRegisterAny(None, 0, on_event, None)
    try:
        report = postcopy.check(dom, URI)
        assert {each.id for each in report.unknown} >= {"destination/userfaultfd"}
        postcopy.check(dom, URI, probe=True)
        wait_until(lambda: started, "an event of the probe's domain", 10)
    finally:
        connection.domainEventDeregisterAny(number)
        connection.close()
    assert all(name.startswith("libvirt-postcopy-probe-") for name in started)
    assert len(set(started)) == 1, "the first check started one too"


@pytest.fixture
def on_hosts(stage: Stage) -> None:
    """For what runs our programs on the hosts themselves."""
    if stage.run("a", ["test", "-x", str(VENV / "python")]).returncode:
        pytest.skip("hosts of another release have file systems of their own")


def test_source_itself_can_tell_of_the_way(stage: Stage, on_hosts: None) -> None:
    stage.start()
    report = _check_on("a", "qemu:///system", URI, "busy", "--probe")
    assert report["ok"] and "link/port" not in _found(report)
    assert report["checks"]["link/name"] == report["checks"]["link/port"] == "clear"
    report = _check_on("a", "qemu:///system", URI, "busy")
    assert report["checks"]["link/name"] == "clear"
    assert report["checks"]["link/port"] == "unknown"


def test_port_is_left_alone_while_a_guest_is_taken_in(
    stage: Stage, on_hosts: None, moved: Check
) -> None:
    """A connection that is closed again could kill its QEMU there."""
    split = Awaited(StatusSeen, lambda seen: seen.status == "postcopy-active")
    slow = {"bandwidth.postcopy": 8}
    job = postcopy.start(
        stage.start(), URI, policy="after:0", params=slow, observer=split
    )
    split.wait()
    report = _check_on("a", "qemu:///system", URI, "--probe")
    assert report["checks"]["link/port"] == "unknown"
    (why,) = (e["evidence"] for e in report["findings"] if e["id"] == "link/port")
    assert "may be taking in busy" in why
    assert job.guest == "split", "it was over by then"
    job.wait(60)
    moved()


def test_destination_itself_can_tell_of_its_kernel(
    stage: Stage, on_hosts: None
) -> None:
    stage.start()
    report = _check_on("b", "qemu+tcp://a/system", "qemu:///system", "busy")
    is_free = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1"
    expected = "clear" if is_free else "found"
    assert report["checks"]["destination/userfaultfd"] == expected
    assert report["ok"], "QEMU may run as root"


def _check_on(host: str, *words: str) -> dict[str, Any]:
    program = [str(VENV / "libvirt-postcopy"), "check", *words]
    done = subprocess.run(
        [str(TOP / "tools" / "lab"), "exec", host, *program, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(SCHEMA).validate(report)
    return report


def _found(report: dict[str, Any]) -> set[str]:
    return {each["id"] for each in report["findings"] if not each["unknown"]}


# What is found


@pytest.fixture
def forbidden(lab: Lab) -> Iterator[str]:
    """A host whose kernel refuses userfaultfd to QEMU."""
    lab.add_host("c", unprivileged=True)
    yield "qemu+tcp://c/system"
    lab.remove_host("c")


def test_userfaultfd_that_is_forbidden(forbidden: str, stage: Stage) -> None:
    dom = stage.start()
    report = postcopy.check(dom, forbidden, probe=True)
    assert errors(report) == ["destination/userfaultfd"]
    (error,) = report.errors
    assert "Postcopy is not supported" in error.evidence
    assert "unprivileged_userfaultfd" in error.cure
    assert domains(stage, "c") == set()
    assert postcopy.check(dom, forbidden).is_ok, "only QEMU there can tell"


@pytest.mark.parametrize("is_same", [True, False])
def test_name_that_is_taken(stage: Stage, is_same: bool) -> None:
    dom = stage.start()
    uuid = dom.UUIDString() if is_same else OTHER_UUID
    stage.connection("b").defineXML(stage.xml(uuid=uuid))
    report = postcopy.check(dom, URI)
    found = {each.id: each for each in report.findings}["destination/domain-exists"]
    if is_same:  # its own definition, from an earlier visit
        assert report.is_ok and found.severity is Severity.NOTE
    else:
        assert errors(report) == ["destination/domain-exists"]
        assert OTHER_UUID in found.evidence


def test_same_host(stage: Stage) -> None:
    report = postcopy.check(stage.start(), "qemu+tcp://a/system")
    assert errors(report) == ["destination/same-host"]


def test_guest_that_is_paused(stage: Stage) -> None:
    dom = stage.start()
    dom.suspend()
    report = postcopy.check(dom, URI)
    assert errors(report) == ["guest/paused"]
    assert dom.info()[0] == libvirt.VIR_DOMAIN_PAUSED, "it was resumed"
    dom.resume()


def test_guest_that_does_not_run(stage: Stage) -> None:
    dom = stage.connection("a").defineXML(stage.xml())
    report = postcopy.check(dom, URI, probe=True)
    assert errors(report) == ["guest/not-running"]


def _check_apart(stage: Stage) -> Report:
    """Over a connection of its own: that of a migration may be busy until its end."""
    own = libvirt.open(stage.lab.host("a").uri)
    try:
        return postcopy.check(own.lookupByName("busy"), URI)
    finally:
        own.close()


def test_job_that_runs(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    begun = Awaited(PassSeen)
    job = postcopy.start(dom, URI, policy="manual", observer=begun)
    begun.wait()
    report = _check_apart(stage)
    assert "guest/job" in errors(report)
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stayed()


def test_half_of_a_guest_is_told_and_left_alone(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    split = Awaited(StatusSeen, lambda seen: seen.status == "postcopy-active")
    slow = {"bandwidth.postcopy": 16}
    job = postcopy.start(dom, URI, policy="after:0", params=slow, observer=split)
    split.wait()
    report = _check_apart(stage)
    assert "guest/split" in errors(report), str(report)
    assert not {"guest/paused", "guest/job"} & set(errors(report))
    assert all("neither half" in each.cure for each in report.errors), str(report)
    job.wait(60)
    moved()


@pytest.mark.parametrize(
    ("flag", "id"),
    [
        (libvirt.VIR_MIGRATE_TUNNELLED, "request/tunnelled"),
        (libvirt.VIR_MIGRATE_OFFLINE, "request/offline"),
        (libvirt.VIR_MIGRATE_PAUSED, "request/suspend"),
        (libvirt.VIR_MIGRATE_PARALLEL, "request/parallel"),
    ],
)
def test_flags_that_do_not_go_with_postcopy(stage: Stage, flag: int, id: str) -> None:
    report = postcopy.check(stage.start(), URI, flags=flag)
    assert errors(report) == [id]


def test_guest_that_is_too_big_for_the_host(stage: Stage) -> None:
    numa = "<cpu><numa><cell id='0' cpus='0' memory='128' unit='MiB'/></numa></cpu>"
    xml = stage.xml().replace(
        "<memory ", "<maxMemory slots='2' unit='GiB'>900</maxMemory><memory ", 1
    )
    dom = stage.connection("a").createXML(xml.replace("<devices>", f"{numa}<devices>"))
    report = postcopy.check(dom, URI)
    assert report.is_ok, "it need never get that much"
    assert ids(report, Severity.WARNING) == ["destination/memory"]
    assert "921600 MiB" in report.warnings[0].evidence


def test_machine_type_that_is_not_there(stage: Stage, unchanged: None) -> None:
    """As on a destination with an older QEMU; the probe cannot be started then."""
    xml = stage.start().XMLDesc()
    machine = xml.partition(" machine='")[2].partition("'")[0]
    newer = {"destination_xml": xml.replace(machine, "pc-i440fx-99.9")}
    there = stage.connection("b")
    report = postcopy.check(stage.find("a"), there, params=newer, probe=True)
    assert errors(report) == ["destination/emulation"]
    assert "pc-i440fx-99.9" in report.errors[0].evidence
    failed = {each.id: each for each in report.unknown}["destination/userfaultfd"]
    assert "the probe failed" in failed.evidence


def test_disk_that_is_not_shared(stage: Stage, on_hosts: None, tmp_path: Path) -> None:
    """libvirt's own judgement, and ours."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    writable = (
        f"<disk type='file'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        "</devices>"
    )
    dom = stage.connection("a").createXML(
        stage.xml().replace("</devices>", writable), 0
    )
    report = _check_on("a", "qemu:///system", URI, "busy")
    errors = {e["id"]: e for e in report["findings"] if e["severity"] == "error"}
    assert set(errors) == {"guest/disks"} and "vda" in errors["guest/disks"]["evidence"]
    with pytest.raises(libvirt.libvirtError, match="unsafe"):
        dom.migrateToURI3(URI, {}, libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER)  # fmt: skip


def test_port_that_cannot_be_reached(stage: Stage, on_hosts: None) -> None:
    stage.start()
    block = ["blackhole", "192.0.2.99/32"]
    assert stage.run("a", ["ip", "route", "add", *block]).returncode == 0
    try:
        report = _check_unreachable(stage)
    finally:
        stage.run("a", ["ip", "route", "del", *block])
    assert "link/port (source)" in report and "192.0.2.99:49152" in report


def _check_unreachable(stage: Stage) -> str:
    program = (
        "import libvirt, libvirt_postcopy as p; c = libvirt.open('qemu:///system');"
        "print(p.check(c.lookupByName('busy'), 'qemu+tcp://b/system',"
        " params={'migrate_uri': 'tcp://192.0.2.99'}, probe=True))"
    )
    done = stage.run("a", [str(VENV / "python"), "-c", program])
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_destination_that_is_not_there(stage: Stage) -> None:
    report = postcopy.check(stage.start(), "qemu+tcp://nowhere/system", probe=True)
    assert report.is_ok, "the source may reach it"
    assert ids(report, Severity.WARNING) == ["destination/connection"]
    assert report.checks["destination/memory"].value == "unknown"


# The probe leaves nothing behind.  Over a connection that stays open libvirt does not destroy it for us.


def test_probe_leaves_nothing(stage: Stage, unchanged: None) -> None:
    report = postcopy.check(stage.start(), stage.connection("b"), probe=True)
    assert report.checks["destination/userfaultfd"].value == "clear"
    assert report.checks["destination/probe-left"].value == "clear"


def test_probe_that_breaks_off_leaves_nothing(
    stage: Stage, unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vir_probe._ask
    seen: list[set[str]] = []

    def ask(dom: Any, command: str, **arguments: Any) -> Any:
        if command == "migrate-set-capabilities":
            seen.append(domains(stage))
            raise KeyboardInterrupt
        return real(dom, command, **arguments)

    monkeypatch.setattr(vir_probe, "_ask", ask)
    with pytest.raises(KeyboardInterrupt):
        postcopy.check(stage.start(), stage.connection("b"), probe=True)
    assert len(seen) == 1 and len(seen[0]) == 1, "there was no probe"


_HANGS = """
import sys, time
import libvirt
import libvirt_postcopy.vir.probe as probe
import libvirt_postcopy
real = probe._ask
def ask(dom, command, **arguments):
    if command == 'migrate-set-capabilities':
        print('asking', flush=True)
        time.sleep(60)
    return real(dom, command, **arguments)
probe._ask = ask
dom = libvirt.open('qemu+tcp://a/system').lookupByName('busy')
libvirt_postcopy.check(dom, 'qemu+tcp://b/system', probe=True)
"""


def test_probe_of_a_client_that_is_killed_leaves_nothing(stage: Stage) -> None:
    """libvirt destroys it (VIR_DOMAIN_START_AUTODESTROY)."""
    stage.start()
    client = subprocess.Popen([sys.executable, "-c", _HANGS], stdout=subprocess.PIPE)
    try:
        assert client.stdout is not None and client.stdout.readline() == b"asking\n"
        assert len(domains(stage)) == 1
    finally:
        client.kill()
        client.communicate()
    wait_until(lambda: not domains(stage), "the end of the probe's domain", 20)


# As a person types it


def test_virsh_postcopy_prints_a_table(stage: Stage, unchanged: None) -> None:
    stage.start()
    done = virsh_postcopy("postcopy-check", "busy", URI, "--probe")
    assert done.returncode == 0 and done.stderr == ""
    assert "0 errors, 0 warnings" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 100


def test_virsh_postcopy_fails_on_an_error(stage: Stage) -> None:
    stage.start().suspend()
    done = virsh_postcopy("postcopy-check", "busy", URI, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    Draft202012Validator(SCHEMA).validate(report)
    assert report["findings"][0]["id"] == "guest/paused" and not report["ok"]
    line = done.stderr.strip()
    assert line.startswith("error: source: post-copy cannot work:")
    assert "\n" not in line and "resume it" in line
    assert stage.find("a").info()[0] == libvirt.VIR_DOMAIN_PAUSED


def test_libvirt_postcopy_looks_at_hosts_alone(stage: Stage, unchanged: None) -> None:
    done = subprocess.run(
        [
            str(VENV / "libvirt-postcopy"),
            "check",
            "qemu+tcp://a/system",
            URI,
            "--probe",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Post-copy from qemu+tcp://a/system to qemu+tcp://b/")
    assert "0 errors, 0 warnings" in done.stdout


@pytest.mark.parametrize("mode", ["warn", "strict"])
def test_before_a_migration(stage: Stage, mode: str) -> None:
    dom = stage.start()
    dom.suspend()
    with pytest.raises(postcopy.NotSupportedError, match="paused"):
        before_migration(mode, pytest.fail, dom, URI)
    dom.resume()
    before_migration(mode, pytest.fail, dom, URI)
