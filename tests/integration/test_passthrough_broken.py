"""The driver qemu after the switch: broken links, killed clients, and TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from commands import Typed, virsh_postcopy
from driven import (
    SLOW,
    B,
    Check,
    ask,
    fails,
    is_there,
    kill_qemu,
    migrate_by_qemu,
    nothing_is_left,
)
from observers import (
    ANSWERED,
    Awaited,
    Recorder,
    Recovered,
    all_of,
    check_resumes,
    wait_until_pages_flow,
)

import libvirt_postcopy as postcopy
from libvirt_postcopy.actions import Resume, Switch
from libvirt_postcopy.drivers import landing
from libvirt_postcopy.events import Resumed, Side, StatusSeen, Stopped
from scenes.stage import Stage
from waiting import wait_until


@pytest.mark.versions
@pytest.mark.upwards
def test_guest_is_brought_back_each_time_its_link_breaks(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    there = Awaited(Resumed, is_there)
    again = Awaited(StatusSeen, Recovered())

    observe = all_of(there, again)
    job = postcopy.start(
        dom, B, driver="qemu", policy="after:0", observer=observe, **SLOW
    )
    there.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    again.wait()
    assert job.guest == "split"
    assert stage.lab.break_migrations() > 0
    job.wait(60)
    check_resumes(again, breaks=2)
    moved()


@pytest.mark.versions
def test_recovery_over_a_unix_socket(stage: Stage, moved: Check) -> None:
    """At the path of before."""
    there, again = Awaited(Resumed, is_there), Awaited(Resume)

    observe = all_of(there, again)
    path = stage.lab.shared / "stream.sock"
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        params={
            "bandwidth": 32,
            "bandwidth.postcopy": 16,
            "migrate_uri": f"unix://{path}",
        },
        observer=observe,
    )
    there.wait()
    wait_until_pages_flow(job)
    ask(stage, "a", "migrate-pause")
    again.wait()
    job.wait(60)
    moved()


@pytest.mark.versions
def test_hole_in_a_recovery_is_waited_out(stage: Stage, moved: Check) -> None:
    there, again = Awaited(Resumed, is_there), Awaited(Resume)

    observe = all_of(there, again)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="after:0", observer=observe, **SLOW
    )
    there.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    stage.lab.swallow_migrations()
    again.wait()
    assert job.guest == "split"
    stage.lab.pass_migrations()
    job.wait(60)
    moved()


def test_resume_that_may_still_connect_gets_no_other_beside_it(
    stage: Stage, moved: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When packets flow again both connect, and up to QEMU 9.0 the source's aborts then: the guest is lost."""
    monkeypatch.setattr(landing, "_RESUME_S", 4.0)  # the kernel tries ever more rarely
    there = Awaited(Resumed, is_there)
    again = Awaited(Resume, lambda seen: seen.attempt == 2)

    observe = all_of(there, again)
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        params={"bandwidth.postcopy": 8},  # both connect before all has arrived
        observer=observe,
    )
    there.wait()
    wait_until_pages_flow(job)
    stage.lab.swallow_migrations()
    assert stage.lab.break_migrations() > 0
    again.wait()
    stage.lab.pass_migrations()
    job.wait(90)
    moved()


def test_abort_after_the_switch_is_refused(stage: Stage, moved: Check) -> None:
    there = Awaited(Resumed, is_there)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="after:0", observer=there
    )
    there.wait()
    assert not job.can_be_left
    with pytest.raises(postcopy.StateError, match="split"):
        job.abort()
    job.wait(60)
    moved()


@pytest.mark.versions
def test_killed_destination_after_the_switch_is_told_as_lost(stage: Stage) -> None:
    there = Awaited(Resumed, is_there)
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        params={"bandwidth.postcopy": 4},
        observer=there,
    )
    there.wait()
    kill_qemu(stage, "b")
    with pytest.raises(postcopy.GuestLost):
        job.wait(90)
    assert stage.active_on() == [
        "a"
    ], "what is left is left for its operator to look at"


# A client that is killed

_OPTIONS = ["--live", "--postcopy", "--postcopy-driver", "qemu", "--verbose"]


@pytest.mark.parametrize("policy", ["manual", "after:0"])
def test_killed_client_is_stood_in_for(stage: Stage, moved: Check, policy: str) -> None:
    """Before the switch, and after the guest has begun to run on the destination."""
    stage.start(is_persistent=True)
    options = ["--postcopy-bandwidth", "16", "--postcopy-policy", policy]
    options += ["--persistent", "--undefinesource"]
    with Typed([*_OPTIONS, *options]) as typed:
        typed.wait_for("pre-copy" if policy == "manual" else "post-copy, .*blackout")
    done = virsh_postcopy("postcopy-attach", stage.name, "--postcopy-policy", "after:0")
    assert done.returncode == 0, done.stderr
    moved()
    assert stage.find("b").isPersistent() and stage.find("a") is None


def test_guest_that_nobody_has_started_is_found(stage: Stage, moved: Check) -> None:
    """The client is killed in the switch, and the guest stands still on both hosts."""
    stage.start()
    with Typed([*_OPTIONS, "--postcopy-policy", "manual"]) as typed:
        typed.wait_for("pre-copy")
        stage.lab.limit("512KiB")
        ask(stage, "a", "migrate-start-postcopy")
        wait_until(
            lambda: ask(stage, "a", "query-migrate")["status"] == "postcopy-active",
            "the switch",
            30,
        )
    stage.lab.limit("64MiB")
    wait_until(
        lambda: ask(stage, "b", "query-status")["status"] == "paused",
        "the device state to arrive",
        30,
    )
    done = virsh_postcopy("postcopy-attach", stage.name)
    assert done.returncode == 0, done.stderr
    moved()


def _has_got_pages(stage: Stage) -> bool:
    requests: int = ask(stage, "a", "query-migrate")["ram"]["postcopy-requests"]
    return requests > ANSWERED


def _is_connecting(stage: Stage) -> bool:
    seen = stage.lab.host("a").run(["ss", "-tnH", "state", "syn-sent"])
    return bool(seen.stdout.strip())


def test_resume_of_a_killed_client_gets_no_other_beside_it(
    stage: Stage, moved: Check
) -> None:
    """It may connect as long as the kernel tries."""
    stage.start()
    options = ["--postcopy-policy", "after:0", "--postcopy-bandwidth", "8"]
    with Typed([*_OPTIONS, *options]) as typed:
        typed.wait_for("post-copy, .*blackout")
        wait_until(lambda: _has_got_pages(stage), "page requests", 30, pause=0.1)
        stage.lab.swallow_migrations()
        assert stage.lab.break_migrations() > 0
        wait_until(lambda: _is_connecting(stage), "the resume", 30, pause=0.1)
    again = Awaited(Resume)
    job = postcopy.attach(stage.find("a"), B, observer=again)
    again.wait()
    stage.lab.pass_migrations()
    job.wait(90)
    moved()


# TLS


@pytest.fixture
def certificates(stage: Stage, tmp_path: Path) -> Iterator[None]:
    """On both hosts, where libvirt would look for them."""
    folders = [stage.lab.host(name).path("/etc/pki/qemu") for name in ("a", "b")]
    _make_certificates(tmp_path)
    for folder in folders:
        folder.mkdir(parents=True)
        for each in tmp_path.glob("*.pem"):
            (folder / each.name).write_bytes(each.read_bytes())
    yield
    for folder in folders:
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
        folder.parent.rmdir()


def _make_certificates(folder: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(
            ["openssl", *words], check=True, cwd=folder, capture_output=True, timeout=60
        )

    authority = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"]
    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=ca", "-days", "2")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:a,DNS:b\n")
    for end in ("server", "client"):
        openssl("req", *key, "-keyout", f"{end}-key.pem", "-out", f"{end}.csr", "-subj", f"/CN={end}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{end}.csr", *authority, "-out", f"{end}-cert.pem", "-days", "2", "-extfile", "names")  # fmt: skip
    (folder / "ca-key.pem").unlink()


@pytest.mark.usefixtures("certificates", "patience")
def test_encrypted_and_recovered(stage: Stage, moved: Check) -> None:
    there = Awaited(Resumed, is_there)
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        flags=libvirt.VIR_MIGRATE_TLS,
        observer=there,
        **SLOW,
    )
    there.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    job.wait(60)
    moved()
    assert len(there.of(Switch)) == 1


@pytest.mark.usefixtures("certificates")
def test_certificate_of_another_name_is_refused(stage: Stage, stayed: Check) -> None:
    fails(
        stage.start(),
        "ertificate",
        flags=libvirt.VIR_MIGRATE_TLS,
        params={"tls.destination": "elsewhere"},
    )
    nothing_is_left(stage, stayed)


def test_nothing_is_sent_in_the_clear_where_tls_cannot_be_had(
    stage: Stage, stayed: Check
) -> None:
    seen = Recorder()
    with pytest.raises(postcopy.NotSupportedError, match="no TLS certificates"):
        migrate_by_qemu(stage.start(), flags=libvirt.VIR_MIGRATE_TLS, observer=seen)
    assert not seen.of(StatusSeen) or not [
        it for it in seen.of(StatusSeen) if it.side is Side.SOURCE
    ]
    assert not [it for it in seen.of(Stopped) if it.side is Side.SOURCE]
    nothing_is_left(stage, stayed)
