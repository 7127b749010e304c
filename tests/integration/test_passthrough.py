"""QEMU driven through the monitor passthrough, between two real hosts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
import pytest
from commands import Typed, migrate, virsh_postcopy
from observers import Awaited, Recorder, Recovered, wait_until_pages_flow

import libvirt_postcopy as postcopy
from guest import GuestParams, verify_domain
from labkit import Lab
from libvirt_postcopy.actions import Resume, Switch
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import PassSeen, Resumed, Side, StatusSeen, Stopped
from libvirt_postcopy.vir.probe import migration_capabilities
from scenes.stage import Stage
from waiting import wait_until

Check = Callable[[], None]
A, B = "qemu+tcp://a/system", "qemu+tcp://b/system"
SLOW = {"bandwidth.postcopy": 16}
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def _migrate(dom: libvirt.virDomain, **options: Any) -> postcopy.MigrationResult:
    return postcopy.migrate(dom, options.pop("to", B), driver="qemu", **options)


def _is_there(seen: Resumed) -> bool:
    return seen.side is Side.DESTINATION


def _is_in_precopy(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "active"


def _is_split(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "postcopy-active"


def _arguments(xml: str) -> list[str]:
    root = ElementTree.fromstring(xml)
    found = root.findall(f"{_QEMU}commandline/{_QEMU}arg")
    return [each.get("value", "") for each in found]


# The whole way


@pytest.mark.versions
@pytest.mark.upwards
def test_busy_guest_arrives_whole(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    seen = Recorder()
    began = time.monotonic()
    result = _migrate(dom, observer=seen)
    moved()
    assert result.driver == "qemu" and result.driver_reason == "asked for"
    assert result.switch is not None and result.switch.attempts == 1
    assert result.postcopy_requests is not None and result.postcopy_requests > 0
    assert result.downtime_ms is not None
    assert 0 < result.downtime_ms <= stage.blackout_ms(began) + 10
    assert result.notes == ()


def test_destination_runs_only_after_the_source_says_postcopy(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    seen = Recorder()
    _migrate(dom, observer=seen)
    moved()
    resumed = next(at for at, it in seen.seen if isinstance(it, Resumed) and _is_there(it))  # fmt: skip
    split = next(at for at, it in seen.seen if isinstance(it, StatusSeen) and _is_split(it))  # fmt: skip
    assert split <= resumed


@pytest.fixture
def small_stage(network: Lab) -> Iterator[Stage]:
    """A guest that is verified in a moment."""
    params = GuestParams(memory_mib=96, working_set_mib=16, rate_mib_s=60)
    with Stage(network, params) as stage:
        yield stage


@pytest.mark.versions
def test_twenty_times_to_and_fro(small_stage: Stage) -> None:
    """The definition goes along, without what the migration needed; in the end an ordinary start shows no taint."""
    stage = small_stage
    stage.lab.unlimit()
    dom = stage.start(is_persistent=True)
    flags = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    for turn in range(20):
        stage.lab.limit("48MiB")
        to, name, other = ((B, "b", "a"), (A, "a", "b"))[turn % 2]
        result = _migrate(dom, to=to, flags=flags, policy="after:200ms")
        assert result.notes == ()
        assert stage.active_on() == [name] and stage.find(other) is None
        assert result.domain is not None and result.domain.isPersistent()
        stage.lab.unlimit()
        if turn % 4 == 3:  # what is stale stays stale
            report = verify_domain(
                result.domain, stage.params, collector=stage.collector
            )
            assert report.ok, f"turn {turn}: {report}"
        defined = result.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        assert _arguments(defined) == []
        assert "-incoming" in _arguments(result.domain.XMLDesc())
        dom = stage.find(name)
    assert not stage.collector.strays
    dom.destroy()
    dom.create()
    log = stage.lab.host("a").path(f"/var/log/libvirt/qemu/{stage.name}.log")
    last_start = log.read_text().rpartition("starting up")[2]
    assert "custom-argv" not in last_start and "custom-monitor" not in last_start


def test_users_own_arguments_and_another_name(stage: Stage) -> None:
    dom = stage.start(qemu_args=["-name", "debug-threads=on"], is_persistent=True)
    result = _migrate(
        dom,
        params={"destination_name": "renamed"},
        flags=libvirt.VIR_MIGRATE_PERSIST_DEST,
        policy="after:0",
    )
    assert result.domain is not None and result.domain.name() == "renamed"
    try:
        defined = result.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        assert _arguments(defined) == ["-name", "debug-threads=on"]
        assert stage.find("a").isPersistent() and not stage.find("a").isActive()
    finally:
        result.domain.undefine()
        result.domain.destroy()


def test_paused_guest_stays_paused(stage: Stage) -> None:
    dom = stage.start()
    dom.suspend()
    seen = Recorder()
    result = _migrate(dom, policy="after:0", observer=seen)
    assert result.domain is not None
    assert result.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert not [it for it in seen.of(Resumed) if _is_there(it)]
    assert stage.active_on() == ["b"]
    result.domain.resume()
    stage.collector.wait_for_beats(1000, timeout=30)
    assert stage.verify("b").ok


def test_guest_paused_during_precopy_stays_paused(stage: Stage) -> None:
    dom = stage.start()
    begun = Awaited(PassSeen)
    job = postcopy.start(dom, B, driver="qemu", policy="manual", observer=begun)
    begun.wait()
    stage.find("a").suspend()
    job.start_postcopy()
    result = job.wait(60)
    assert result.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    result.domain.resume()
    assert stage.verify("b").ok


def test_plain_precopy(stage: Stage, moved: Check) -> None:
    stage.lab.unlimit()
    dom = stage.start()
    result = _migrate(dom, policy="never")
    moved()
    assert result.switch is None and result.postcopy_requests == 0


@pytest.mark.versions
@pytest.mark.upwards
def test_blocktime(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    result = _migrate(dom, policy="after:1s", wishes=Wishes(blocktime=True))
    moved()
    assert result.blocktime["postcopy-blocktime"] > 0
    assert result.blocktime["postcopy-vcpu-blocktime"]


def test_preempt_where_qemu_has_it(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    can = "postcopy-preempt" in migration_capabilities(dom)
    wishes = Wishes(preempt=True)
    if can:
        _migrate(dom, policy="after:1s", wishes=wishes)
        assert stage.active_on() == ["b"] and stage.verify("b").ok
        return
    with pytest.raises(postcopy.NotSupportedError, match="no postcopy-preempt"):
        _migrate(dom, policy="after:1s", wishes=wishes)
    _nothing_is_left(stage, stayed)


def test_a_given_address_is_the_only_one_that_is_listened_at(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    begun = Awaited(StatusSeen, _is_in_precopy)
    job = postcopy.start(
        dom,
        B,
        driver="qemu",
        policy="manual",
        params={"migrate_uri": "tcp://192.0.2.12:49200"},
        observer=begun,
    )
    begun.wait()
    told = _ask(stage, "b", "query-migrate")["socket-address"]
    assert [(it["host"], it["port"]) for it in told] == [("192.0.2.12", "49200")]
    job.start_postcopy()
    job.wait(60)
    moved()


def _ask(stage: Stage, name: str, command: str) -> Any:
    """Ask the guest's QEMU on a host."""
    words = json.dumps({"execute": command})
    return json.loads(libvirt_qemu.qemuMonitorCommand(stage.find(name), words, 0))[
        "return"
    ]


def test_command(stage: Stage, moved: Check) -> None:
    stage.start()
    options = ["--live", "--postcopy-after", "1", "--postcopy-driver", "qemu"]
    done = migrate(*options, "--postcopy-blocktime", "--verbose")
    assert done.returncode == 0, done.stderr
    assert "driver qemu: asked for" in done.stderr
    assert "note: the guest's memory is sent unencrypted" in done.stderr
    assert "postcopy-blocktime: " in done.stderr
    moved()


@pytest.mark.parametrize("driver", ["native", "qemu"])
def test_domains_own_policy_is_obeyed_and_goes_along(
    stage: Stage, moved: Check, driver: str
) -> None:
    stage.start(is_persistent=True)
    own = ["postcopy-policy", stage.name]
    assert virsh_postcopy("-c", A, *own, "--set", "after:700ms").returncode == 0
    done = migrate("--live", "--postcopy", "--postcopy-driver", driver, "--persistent")
    assert done.returncode == 0, done.stderr
    assert "the domain's own policy: after:700ms" in done.stderr
    moved()
    assert virsh_postcopy("-q", "-c", B, *own).stdout == "after:700ms\n"
    assert virsh_postcopy("-c", B, *own, "--unset").returncode == 0
    assert virsh_postcopy("-q", "-c", B, *own).stdout == "none\n"


@pytest.mark.parametrize("verb", ["migrate-start-postcopy", "migrate-postcopy"])
def test_switch_by_another_command(stage: Stage, moved: Check, verb: str) -> None:
    """Though libvirt knows of no migration."""
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    done = virsh_postcopy("-c", A, verb, stage.name)
    assert done.returncode == 0, done.stderr
    result = job.wait(60)
    moved()
    assert result.switch is not None and result.switch.reason == "asked for by another client"  # fmt: skip


def test_downtime_limit(stage: Stage, moved: Check) -> None:
    """So long a stop is allowed for what is left after two passes that no switch is needed."""
    result = _migrate(stage.start(), policy="never", wishes=Wishes(downtime_limit_ms=5000))  # fmt: skip
    moved()
    assert result.switch is None and result.passes <= 3


def test_release_ram(stage: Stage, moved: Check) -> None:
    """The source is asked while both halves are there."""
    split = Awaited(StatusSeen, _is_split)
    job = postcopy.start(
        stage.start(),
        B,
        driver="auto",
        policy="after:200ms",
        params=SLOW,
        wishes=Wishes(release_ram=True),
        observer=split,
    )
    split.wait()
    reply = libvirt_qemu.qemuMonitorCommand(
        stage.find("a"), '{"execute": "query-migrate-capabilities"}', 0
    )
    result = job.wait(60)
    moved()
    on = {each["capability"] for each in json.loads(reply)["return"] if each["state"]}
    assert "release-ram" in on
    assert result.driver == "qemu" and "release-ram" in result.driver_reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--postcopy-driver", "quick"], "auto, native, qemu"),
        (["--postcopy-driver", "qemu", "--p2p"], "peer to peer"),
        (["--postcopy-driver", "qemu", "--copy-storage-all"], "copies no disks"),
        (["--postcopy-driver", "native", "--postcopy-release-ram"], "release-ram"),
        (["--postcopy-driver", "qemu", "--migrateuri", "rdma://b"], "rdma"),
    ],
)
def test_command_that_cannot_be_meant(
    stage: Stage, stayed: Check, options: list[str], words: str
) -> None:
    stage.start()
    done = migrate("--live", "--postcopy", *options)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    stayed()


# Failures before the switch


def _fails(dom: libvirt.virDomain, match: str, **options: Any) -> None:
    with pytest.raises(postcopy.PostcopyError, match=match) as caught:
        _migrate(dom, policy="manual", **options)
    assert getattr(caught.value, "guest", "source") == "source"


def _nothing_is_left(stage: Stage, stayed: Check) -> None:
    stayed()
    assert stage.find("b") is None


def test_destination_that_cannot_start(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    xml = stage.xml(uuid=dom.UUIDString(), emulator="/nowhere/qemu")
    _fails(dom, "destination.*nowhere", params={"destination_xml": xml})
    _nothing_is_left(stage, stayed)


def test_port_that_is_taken(stage: Stage, moved: Check) -> None:
    """The next one of the range is used."""
    dom = stage.start()
    with _taking(stage, 49190):
        _migrate(dom, wishes=Wishes(ports=range(49190, 49192)))
    moved()


def test_no_port_that_is_free(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    with _taking(stage, 49190):
        _fails(dom, "cannot listen.*in use", wishes=Wishes(ports=(49190,)))
    _nothing_is_left(stage, stayed)


def test_address_of_another_host(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    _fails(dom, "cannot listen", params={"migrate_uri": "tcp://192.0.2.99"})
    _nothing_is_left(stage, stayed)


class _taking:
    """Something else listens on a port of b."""

    _PROGRAM = "import socket,sys; s=socket.create_server(('',int(sys.argv[1]))); print('on',flush=True); s.accept()"

    def __init__(self, stage: Stage, port: int) -> None:
        host = stage.lab.host("b")
        self._process = host.popen(
            ["python3", "-c", self._PROGRAM, str(port)], stdout=subprocess.PIPE
        )

    def __enter__(self) -> None:
        assert self._process.stdout.readline().strip() in ("on", b"on")

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def test_capability_that_is_refused(stage: Stage, stayed: Check) -> None:
    """Its QEMU runs as an ordinary user there, to whom the kernel refuses userfaultfd."""
    dom = stage.start(machine="pc-i440fx-5.2")  # which every release has
    stage.lab.add_host("c", unprivileged=True)
    try:
        with pytest.raises(
            postcopy.NotSupportedError, match="Postcopy is not"
        ) as caught:
            _migrate(dom, to="qemu+tcp://c/system")
        assert "unprivileged_userfaultfd" in caught.value.cure
        assert caught.value.side == "destination"
        assert stage.find("c") is None
        stayed()
    finally:
        stage.lab.remove_host("c")


def test_abort_while_the_destination_is_prepared(stage: Stage, stayed: Check) -> None:
    job = postcopy.start(stage.start(), B, driver="qemu", policy="manual")
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    _nothing_is_left(stage, stayed)


def test_abort_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled) as caught:
        job.wait(60)
    assert caught.value.guest == "source"
    _nothing_is_left(stage, stayed)


def test_link_that_breaks_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.MigrationFailed):
        job.wait(60)
    _nothing_is_left(stage, stayed)


def test_link_that_swallows_packets_before_the_switch_can_be_left(
    stage: Stage, stayed: Check
) -> None:
    """The source's connection is never made, or hangs: an abort takes all back."""
    stage.lab.swallow_migrations()
    begun = Awaited(StatusSeen, _is_setting_up)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stage.lab.pass_migrations()
    _nothing_is_left(stage, stayed)


def _is_setting_up(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "setup"


def test_destination_that_is_killed_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    _kill_qemu(stage, "b")
    with pytest.raises(postcopy.MigrationFailed):
        job.wait(60)
    _nothing_is_left(stage, stayed)


def _kill_qemu(stage: Stage, name: str) -> None:
    host = stage.lab.host(name)
    pid = host.path(f"/run/libvirt/qemu/{stage.name}.pid").read_text().strip()
    host.run(["kill", "-KILL", pid])


def test_what_was_set_is_put_back_after_a_failure(stage: Stage, moved: Check) -> None:
    """So that libvirt's own migration works afterwards."""
    dom = stage.start()
    with _taking(stage, 49190):
        _fails(dom, "cannot listen", wishes=Wishes(ports=(49190,)))
    result = postcopy.migrate(dom, B)
    assert result.driver == "native"
    moved()


def test_then_libvirts_own_migration_takes_it_on(stage: Stage) -> None:
    """What is left in the running domain's XML does no harm there."""
    there = _migrate(stage.start(), policy="after:0").domain
    back = postcopy.migrate(there, A)
    assert back.driver == "native"
    assert stage.active_on() == ["a"] and stage.verify("a").ok
    again = _migrate(stage.find("a"), policy="after:0")
    assert again.driver == "qemu"
    assert stage.active_on() == ["b"] and stage.verify("b").ok


# At the switch


def _at_the_switch(stage: Stage) -> tuple[postcopy.Job, Awaited]:
    """The source has given the guest away, and the device state is behind what its link still has to send."""
    begun, left = Awaited(PassSeen), Awaited(StatusSeen, _has_left)

    def observe(what: object) -> None:
        begun(what)
        left(what)

    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=observe
    )
    begun.wait()
    stage.lab.limit("512KiB")
    job.start_postcopy()
    left.wait()
    return job, left


def _has_left(seen: StatusSeen) -> bool:
    """From QEMU 10.2 on ``postcopy-active`` comes only when the device state has arrived."""
    is_away = seen.status in ("postcopy-active", "postcopy-device")
    return seen.side is Side.SOURCE and is_away


def test_hole_in_the_switch_holds_the_guest_up(stage: Stage, moved: Check) -> None:
    """The destination says by then that it is in post-copy, and a start would come before its device state."""
    job, seen = _at_the_switch(stage)
    stage.lab.swallow_migrations()
    assert _ask(stage, "b", "query-status")["status"] == "inmigrate"
    assert not [it for it in seen.of(Resumed) if _is_there(it)]
    stage.lab.limit("64MiB")
    stage.lab.pass_migrations()
    job.wait(60)
    moved()


def test_break_in_the_switch_never_starts_two(stage: Stage, stayed: Check) -> None:
    """The destination ends without the guest ever running there.  Whether the source can go on is up to its QEMU."""
    job, seen = _at_the_switch(stage)
    assert stage.lab.break_migrations() > 0
    with pytest.raises((postcopy.MigrationFailed, postcopy.GuestLost)) as caught:
        job.wait(60)
    assert not [it for it in seen.of(Resumed) if _is_there(it)]
    assert stage.find("b") is None
    if isinstance(caught.value, postcopy.MigrationFailed):
        stayed()
        return
    assert "the guest never ran there" in str(caught.value)
    assert "cannot go on from there" in str(caught.value)
    assert stage.active_on() == ["a"], "its memory is there for its operator"


# After the switch


@pytest.mark.versions
@pytest.mark.upwards
def test_guest_is_brought_back_each_time_its_link_breaks(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    there = Awaited(Resumed, _is_there)
    again = Awaited(StatusSeen, Recovered())

    def observe(what: object) -> None:
        there(what)
        again(what)

    job = postcopy.start(
        dom, B, driver="qemu", policy="after:0", params=SLOW, observer=observe
    )
    there.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    again.wait()
    assert job.guest == "split"
    assert stage.lab.break_migrations() > 0
    job.wait(60)
    assert len(again.of(Resume)) == 2
    moved()


def test_hole_in_a_recovery_is_waited_out(stage: Stage, moved: Check) -> None:
    there, again = Awaited(Resumed, _is_there), Awaited(Resume)

    def observe(what: object) -> None:
        there(what)
        again(what)

    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="after:0", params=SLOW, observer=observe
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


def test_abort_after_the_switch_is_refused(stage: Stage, moved: Check) -> None:
    there = Awaited(Resumed, _is_there)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="after:0", observer=there
    )
    there.wait()
    assert not job.can_be_left
    with pytest.raises(postcopy.StateError, match="split"):
        job.abort()
    job.wait(60)
    moved()


def test_killed_destination_after_the_switch_is_told_as_lost(stage: Stage) -> None:
    there = Awaited(Resumed, _is_there)
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        params={"bandwidth.postcopy": 4},
        observer=there,
    )
    there.wait()
    _kill_qemu(stage, "b")
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
        typed.wait_for("pre-copy" if policy == "manual" else "post-copy, .*downtime")
    done = virsh_postcopy("postcopy-attach", stage.name, "--postcopy-policy", "after:0")
    assert done.returncode == 0, done.stderr
    moved()
    assert stage.find("b").isPersistent() and stage.find("a") is None


def test_guest_that_nobody_has_started_is_found(stage: Stage, moved: Check) -> None:
    """The client is killed in the switch, and the guest stands still on both hosts."""
    stage.start()
    with Typed([*_OPTIONS, "--postcopy-policy", "after:3s"]) as typed:
        typed.wait_for("pre-copy")
        stage.lab.limit("512KiB")
        wait_until(
            lambda: _ask(stage, "a", "query-migrate")["status"] == "postcopy-active",
            "the switch",
            30,
        )
    stage.lab.limit("64MiB")
    wait_until(
        lambda: _ask(stage, "b", "query-status")["status"] == "paused",
        "the device state to arrive",
        30,
    )
    done = virsh_postcopy("postcopy-attach", stage.name)
    assert done.returncode == 0, done.stderr
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


@pytest.mark.usefixtures("certificates")
def test_encrypted_and_recovered(stage: Stage, moved: Check) -> None:
    there = Awaited(Resumed, _is_there)
    job = postcopy.start(
        stage.start(),
        B,
        driver="qemu",
        policy="after:0",
        flags=libvirt.VIR_MIGRATE_TLS,
        params=SLOW,
        observer=there,
    )
    there.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    job.wait(60)
    moved()
    assert len(there.of(Switch)) == 1


@pytest.mark.usefixtures("certificates")
def test_certificate_of_another_name_is_refused(stage: Stage, stayed: Check) -> None:
    _fails(
        stage.start(),
        "ertificate",
        flags=libvirt.VIR_MIGRATE_TLS,
        params={"tls.destination": "elsewhere"},
    )
    _nothing_is_left(stage, stayed)


def test_nothing_is_sent_in_the_clear_where_tls_cannot_be_had(
    stage: Stage, stayed: Check
) -> None:
    seen = Recorder()
    with pytest.raises(postcopy.NotSupportedError, match="no TLS certificates"):
        _migrate(stage.start(), flags=libvirt.VIR_MIGRATE_TLS, observer=seen)
    assert not seen.of(StatusSeen) or not [
        it for it in seen.of(StatusSeen) if it.side is Side.SOURCE
    ]
    assert not [it for it in seen.of(Stopped) if it.side is Side.SOURCE]
    _nothing_is_left(stage, stayed)
