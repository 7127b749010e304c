"""A second monitor at the destination's QEMU, with libvirt's own migration."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import libvirt
import pytest
from commands import migrate
from observers import Awaited, wait_until_pages_flow

import libvirt_postcopy as postcopy
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import StatusSeen
from scenes.stage import Stage

Check = Callable[[], None]
A, B = "qemu+tcp://a/system", "qemu+tcp://b/system"
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_DEFINED = libvirt.VIR_DOMAIN_XML_INACTIVE
_WHEN = "after:1s"
"""QEMU counts only what it was told to count before the switch."""


@pytest.fixture
def counted(stage: Stage) -> Wishes:
    """Hosts and client have nothing in common but the lab's folder."""
    return Wishes(blocktime=True, monitor_dir=str(stage.lab.shared))


def _arguments(xml: str) -> list[str]:
    found = ElementTree.fromstring(xml).findall(f"{_QEMU}commandline/{_QEMU}arg")
    return [each.get("value", "") for each in found]


@pytest.mark.versions
@pytest.mark.upwards
@pytest.mark.parametrize("peer2peer", [True, False])
@pytest.mark.usefixtures("patience")
def test_blocktime(
    stage: Stage, moved: Check, counted: Wishes, peer2peer: bool
) -> None:
    dom = stage.start()
    result = postcopy.migrate(dom, B, policy=_WHEN, peer2peer=peer2peer, wishes=counted)
    moved()
    assert result.driver == "native" and result.notes == ()
    assert result.blocktime["postcopy-blocktime"] > 0
    assert result.blocktime["postcopy-vcpu-blocktime"]


@pytest.mark.parametrize("is_persistent", [True, False])
@pytest.mark.usefixtures("patience")
def test_to_and_fro_leaves_the_definition_as_it_was(
    stage: Stage, counted: Wishes, is_persistent: bool
) -> None:
    own = ["-name", "debug-threads=on"]
    dom = stage.start(qemu_args=own, is_persistent=is_persistent)
    flags = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    for turn, wishes in enumerate([counted, counted, None]):
        to, name = ((B, "b"), (A, "a"))[turn % 2]
        result = postcopy.migrate(dom, to, policy=_WHEN, flags=flags, wishes=wishes)  # fmt: skip
        assert result.notes == () and stage.active_on() == [name]
        dom = stage.find(name)
        assert _arguments(dom.XMLDesc(_DEFINED)) == own
        assert len(_arguments(dom.XMLDesc())) == (6 if wishes else 2)
    assert stage.verify(name).ok


def test_destination_that_this_machine_cannot_look_into(stage: Stage) -> None:
    """Neither its folders nor an ssh server: the guest moves, and its owner is told."""
    stage.start()
    done = migrate("--live", "--postcopy-after", "300ms", "--postcopy-blocktime")
    assert done.returncode == 0, done.stderr
    assert "note: the guest's waits for pages are not counted: ssh b: " in done.stderr
    assert stage.verify("b").ok


@pytest.mark.usefixtures("patience")
def test_socket_that_qemu_cannot_make(stage: Stage, moved: Check) -> None:
    """As where AppArmor confines it."""
    folder = stage.lab.shared / "closed"
    folder.mkdir(exist_ok=True)
    wishes = Wishes(blocktime=True, monitor_dir=f"{folder}/not-there")
    (folder / "not-there").symlink_to("/proc/self")  # a folder, and none for files
    try:
        result = postcopy.migrate(stage.start(), B, policy="after:300ms", wishes=wishes)
    finally:
        (folder / "not-there").unlink()
        folder.rmdir()
    moved()
    assert len(result.notes) == 1 and "cannot make the socket" in result.notes[0]
    assert result.blocktime == {}


@pytest.mark.versions
@pytest.mark.upwards
@pytest.mark.usefixtures("patience")
def test_link_that_breaks(stage: Stage, moved: Check, counted: Wishes) -> None:
    """Where libvirt's own resume would kill its daemon, too."""
    dom = stage.start()
    versions = [stage.connection(host).getLibVersion() for host in ("a", "b")]
    can_resume = min(versions) >= 8_005_000
    arrived = Awaited(StatusSeen, lambda it: it.status == "postcopy-active")
    job = postcopy.start(
        dom,
        B,
        policy=_WHEN,
        params={"bandwidth.postcopy": 16},
        wishes=counted,
        recover="90s",
        recover_bandwidth=0,
        observer=arrived,
    )
    arrived.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    if not can_resume:
        with pytest.raises(postcopy.PostcopyBroken, match="cannot resume a broken"):
            job.wait(30)
        assert stage.active_on() == ["a", "b"], "both halves are kept"
        return
    result = job.wait(90)
    moved()  # and the source is gone by then, whether a call has waited for it or not
    assert result.notes == ()
    assert result.blocktime["postcopy-blocktime"] > 0
    # A daemon that has crashed would not be there any more.
    assert stage.connection("b").getLibVersion() == versions[1]
