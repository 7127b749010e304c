"""QEMU driven through the monitor passthrough, between two real hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
import pytest
from commands import migrate, virsh_postcopy
from driven import (
    SLOW,
    A,
    B,
    Check,
    ask,
    is_in_precopy,
    is_split,
    is_there,
    migrate_by_qemu,
    nothing_is_left,
)
from observers import Awaited, Recorder, check_downtime

import libvirt_postcopy as postcopy
from guest import GuestParams, verify_domain
from labkit import Lab
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import PassSeen, Resumed, StatusSeen
from libvirt_postcopy.vir.probe import migration_capabilities
from scenes.stage import Stage

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def _arguments(xml: str) -> list[str]:
    root = ElementTree.fromstring(xml)
    found = root.findall(f"{_QEMU}commandline/{_QEMU}arg")
    return [each.get("value", "") for each in found]


@pytest.mark.versions
@pytest.mark.upwards
@pytest.mark.usefixtures("patience")
def test_busy_guest_arrives_whole(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    seen = Recorder()
    began = time.monotonic()
    result = migrate_by_qemu(dom, observer=seen)
    blackout_ms = stage.blackout_ms(began)  # before it is stopped to be looked at
    moved()
    assert result.driver == "qemu" and result.driver_reason == "asked for"
    assert result.switch is not None and result.switch.took_effect_ms is not None
    assert result.postcopy_requests is not None and result.postcopy_requests > 0
    assert result.notes == ()
    check_downtime(
        stage, result, blackout_ms, lambda dom, to: migrate_by_qemu(dom, to=to)
    )


def test_destination_runs_only_after_the_source_says_postcopy(
    stage: Stage, moved: Check, patience: dict[str, int]
) -> None:
    dom = stage.start()
    seen = Recorder()
    result = migrate_by_qemu(dom, observer=seen, params=patience)
    moved()
    assert result.switch is not None and result.switch.attempts == 1
    resumed = next(at for at, it in seen.seen if isinstance(it, Resumed) and is_there(it))  # fmt: skip
    split = next(at for at, it in seen.seen if isinstance(it, StatusSeen) and is_split(it))  # fmt: skip
    assert split <= resumed


@pytest.fixture
def small_stage(network: Lab) -> Iterator[Stage]:
    """A guest that is verified in a moment."""
    params = GuestParams(memory_mib=48, working_set_mib=16, rate_mib_s=60)
    with Stage(network, params) as stage:
        yield stage


@pytest.mark.versions
@pytest.mark.usefixtures("patience")
def test_twenty_times_to_and_fro(small_stage: Stage) -> None:
    """The definition goes along, without what the migration needed; in the end an ordinary start shows no taint."""
    stage = small_stage
    stage.lab.unlimit()
    dom = stage.start(is_persistent=True)
    flags = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    for turn in range(20):
        stage.lab.limit("48MiB")
        to, name, other = ((B, "b", "a"), (A, "a", "b"))[turn % 2]
        result = migrate_by_qemu(dom, to=to, flags=flags, policy="after:200ms")
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
    result = migrate_by_qemu(
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
    result = migrate_by_qemu(dom, policy="after:0", observer=seen)
    assert result.domain is not None
    assert result.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert not [it for it in seen.of(Resumed) if is_there(it)]
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
    result = migrate_by_qemu(dom, policy="never")
    moved()
    assert result.switch is None and result.postcopy_requests == 0


@pytest.mark.versions
@pytest.mark.upwards
def test_blocktime(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    result = migrate_by_qemu(dom, policy="after:1s", wishes=Wishes(blocktime=True))
    moved()
    assert result.blocktime["postcopy-blocktime"] > 0
    assert result.blocktime["postcopy-vcpu-blocktime"]


@pytest.mark.versions
def test_preempt_where_qemu_has_it(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    can = "postcopy-preempt" in migration_capabilities(dom)
    wishes = Wishes(preempt=True)
    if can:
        migrate_by_qemu(dom, policy="after:1s", wishes=wishes)
        assert stage.active_on() == ["b"] and stage.verify("b").ok
        return
    with pytest.raises(postcopy.NotSupportedError, match="no postcopy-preempt"):
        migrate_by_qemu(dom, policy="after:1s", wishes=wishes)
    nothing_is_left(stage, stayed)


def test_a_given_address_is_the_only_one_that_is_listened_at(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    begun = Awaited(StatusSeen, is_in_precopy)
    job = postcopy.start(
        dom,
        B,
        driver="qemu",
        policy="manual",
        params={"migrate_uri": "tcp://192.0.2.12:49200"},
        observer=begun,
    )
    begun.wait()
    told = ask(stage, "b", "query-migrate")["socket-address"]
    assert [(it["host"], it["port"]) for it in told] == [("192.0.2.12", "49200")]
    job.start_postcopy()
    job.wait(60)
    moved()


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
    result = migrate_by_qemu(stage.start(), policy="never", wishes=Wishes(downtime_limit_ms=5000))  # fmt: skip
    moved()
    assert result.switch is None and result.passes <= 3


def test_release_ram(stage: Stage, moved: Check) -> None:
    """The source is asked while both halves are there."""
    split = Awaited(StatusSeen, is_split)
    job = postcopy.start(
        stage.start(),
        B,
        driver="auto",
        policy="after:200ms",
        wishes=Wishes(release_ram=True),
        observer=split,
        **SLOW,
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
