from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers import second_monitor
from libvirt_postcopy.drivers.channel import Channel
from libvirt_postcopy.drivers.second_monitor import (
    FOLDER,
    SecondMonitor,
    Told,
    Way,
    way_to,
)
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorLost,
    MonitorSilent,
    MonitorStuck,
)
from unit.drivers.qemus import Machine
from unit.fakes import RUNNING, FakeConnection
from unit.qmp.monitors import DEAF, MonitorServer, refuse, stand_still
from waiting import wait_until

LIVE = MigrateFlags.VIR_MIGRATE_LIVE
CHANNEL = Channel(bind="192.0.2.2", connect="192.0.2.2", ports=range(49184, 49186))
OFF = {"return": [{"capability": "postcopy-blocktime", "state": False}]}
ON = {"return": [{"capability": "postcopy-blocktime", "state": True}]}
FIGURES = {"status": "completed", "postcopy-blocktime": 7, "postcopy-vcpu-blocktime": [7]}  # fmt: skip

Make = Callable[..., SecondMonitor]


@pytest.fixture
def dom() -> Machine:
    return Machine(FakeConnection(), RUNNING)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[SecondMonitor] = []

    def make(way: Way | None = None, *, counts: bool = True) -> SecondMonitor:
        way = way or Way(str(tmp_path))
        made.append(SecondMonitor(way, counts_blocktime=counts))
        return made[-1]

    yield make
    for monitor in made:
        monitor.close()


def _served(monitor: SecondMonitor, **answers: object) -> MonitorServer:
    named = {name.replace("_", "-"): answer for name, answer in answers.items()}
    return MonitorServer(Path(monitor.path), named)


def _offered(make: Make, dom: Machine) -> SecondMonitor:
    """One that a destination was started with, and that counts nothing."""
    monitor = make(counts=False)
    monitor.offer(dom, {}, LIVE)
    return monitor


# The way


@pytest.mark.parametrize(
    ("uri", "folder", "way"),
    [
        ("qemu:///system", None, Way()),
        (None, None, Way()),
        ("qemu+unix:///system?socket=/x", None, Way()),
        ("qemu+tcp://localhost/system", None, Way()),
        ("qemu+tcp://127.0.0.2/system", None, Way()),
        ("qemu+tls://[::1]/system", None, Way()),
        ("qemu+tls://b/system", None, Way(host="b")),
        ("qemu+tls://b:16514/system", None, Way(host="b")),  # libvirt's port, not ssh's
        ("qemu+tls://b/system", "/mnt/all", Way("/mnt/all")),
        ("qemu+ssh://b/system", None, Way(host="b")),
        ("qemu+ssh://root@b:2222/system", "/run/x", Way("/run/x", "b", "root", 2222)),
        ("qemu+libssh://b/system", "/run/x", Way("/run/x", "b")),
        ("qemu+ssh://b:x/system", "/run/x", Way("/run/x")),
    ],
)
def test_way(uri: str | None, folder: str | None, way: Way) -> None:
    assert way_to(uri, folder) == way


def test_socket_has_room_in_its_address_and_is_no_other_ones() -> None:
    paths = {SecondMonitor(Way(), counts_blocktime=True).path for _ in range(2)}
    assert len(paths) == 2
    assert all(path.startswith(f"{FOLDER}/") and len(path) < 108 for path in paths)


# Blocktime


def test_it_is_switched_on_when_qemu_is_there_and_read_at_the_end(
    make: Make, dom: Machine
) -> None:
    monitor = make()
    assert monitor.path in monitor.offer(dom, {}, LIVE)["destination_xml"]
    monitor.begin()  # nobody listens yet
    served = _served(
        monitor, query_migrate_capabilities=ON, query_migrate={"return": FIGURES}
    )
    with served as qemu:
        wait_until(lambda: qemu.commands()[-2:-1] == ["migrate-set-capabilities"], "it", 5)  # fmt: skip
        monitor.read()
    assert monitor.blocktime == {"postcopy-blocktime": 7, "postcopy-vcpu-blocktime": [7]}  # fmt: skip
    assert monitor.notes == []


def test_figures_are_there_when_qemu_has_all_pages(make: Make, dom: Machine) -> None:
    """libvirt may have told of the end before."""
    monitor = make()
    monitor.offer(dom, {}, LIVE)

    def answer(server: MonitorServer) -> None:
        info = {"status": "postcopy-active"}
        if server.commands().count("query-migrate") > 1:
            info = FIGURES
        server.say({"return": info, "id": server.asked[-1]["id"]})

    with _served(monitor, query_migrate=answer):
        monitor.read()
    assert monitor.blocktime["postcopy-blocktime"] == 7 and monitor.notes == []


def test_qemu_that_cannot_count(make: Make, dom: Machine) -> None:
    monitor = make()
    monitor.offer(dom, {}, LIVE)
    monitor.begin()
    served = _served(
        monitor,
        query_migrate_capabilities={"return": []},
        query_migrate={"return": {"status": "completed"}},
    )
    with served as qemu:
        wait_until(lambda: "query-migrate-capabilities" in qemu.commands(), "it", 5)
        monitor.read()
    assert "migrate-set-capabilities" not in qemu.commands()
    assert "no figure" in monitor.notes[0]


def test_folder_that_cannot_be_seen(make: Make, dom: Machine, tmp_path: Path) -> None:
    monitor = make(Way(str(tmp_path / "none")))
    assert monitor.offer(dom, {"bandwidth": 8}, LIVE) == {"bandwidth": 8}
    monitor.begin()
    monitor.read()
    assert not monitor.is_there and "cannot see the folder" in monitor.notes[0]


@pytest.mark.programs
def test_host_without_ssh(
    make: Make, dom: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monitor = make(Way(str(tmp_path), "b"))
    assert monitor.offer(dom, {}, LIVE) == {}
    assert "ssh cannot be started" in monitor.notes[0]


def test_qemu_that_is_gone_at_the_end(
    make: Make, dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_monitor, "_LAST_S", 0.1)
    monitor = make()
    monitor.offer(dom, {}, LIVE)
    monitor.read()
    assert "cannot be reached" in monitor.notes[0]


def test_what_is_forgone_is_not_waited_for(
    make: Make, dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    connected = SecondMonitor._connected

    def connect(monitor: SecondMonitor) -> object:
        tries.append(1)
        return connected(monitor)

    monkeypatch.setattr(SecondMonitor, "_connected", connect)
    monitor = make()
    monitor.offer(dom, {}, LIVE)
    monitor.begin()
    (waiting,) = [it for it in threading.enumerate() if it.name == "postcopy-second-monitor"]  # fmt: skip
    wait_until(lambda: tries, "its first try", 5)
    monitor.forgo("QEMU cannot make the socket")
    waiting.join(5)
    assert not waiting.is_alive()


def test_tries_get_fewer_the_longer_they_have_been_in_vain() -> None:
    pauses = [second_monitor._pause_after(waited) for waited in (0.0, 0.4, 2.0, 99.0)]
    assert pauses == pytest.approx([0.05, 0.05, 0.2, 1.0])


def test_error_that_is_about_the_socket(make: Make, dom: Machine) -> None:
    monitor = make()
    error = LibvirtError(f"Failed to bind socket to {monitor.path}: Permission denied")
    assert not monitor.is_blamed(error)
    monitor.offer(dom, {}, LIVE)
    assert monitor.is_blamed(error) and not monitor.is_blamed(LibvirtError("no memory"))


# Recovery


def test_destination_waits_for_the_new_channel(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    listening = {"socket-address": [{"type": "inet", "port": "49185"}]}
    with _served(monitor, query_migrate={"return": listening}) as qemu:
        assert monitor.recover(CHANNEL) == 49185
    (recover,) = qemu.sent("migrate-recover")
    assert recover["arguments"] == {"uri": "tcp:192.0.2.2:49184,to=49185"}


STANDS_STILL = {"query_status": stand_still, "query_migrate": stand_still}
TAKEN = "Failed to find an available port: Address already in use"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_monitor, "_TAKES_S", 0.1)
    monkeypatch.setattr(second_monitor, "_ECHO_S", 0.1)
    monkeypatch.setattr(second_monitor, "_GREET_S", 0.2)


@pytest.mark.usefixtures("impatient")
def test_main_loop_that_stands_still_is_told_one_port_after_the_other(
    make: Make, dom: Machine
) -> None:
    """It cannot be asked which of several it has taken."""
    monitor = _offered(make, dom)

    def listen(server: MonitorServer) -> None:
        answer = server.asked[-1]
        is_free = answer["arguments"]["uri"].endswith(":49185")
        server.say({**({"return": {}} if is_free else refuse(TAKEN)), "id": answer["id"]})  # fmt: skip

    with _served(monitor, **STANDS_STILL, migrate_recover=listen) as qemu:
        assert monitor.look() == Told(stands_still=True)
        assert monitor.recover(CHANNEL) == 49185
    told = qemu.sent("migrate-recover")
    assert [each["exec-oob"] for each in told] == ["migrate-recover"] * 2
    assert [each["arguments"]["uri"] for each in told] == ["tcp:192.0.2.2:49184", "tcp:192.0.2.2:49185"]  # fmt: skip


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("desc", [TAKEN, "Migrate recovery is triggered already"])
def test_main_loop_that_stands_still_and_cannot_listen(
    make: Make, dom: Machine, desc: str
) -> None:
    monitor = _offered(make, dom)
    served = _served(monitor, **STANDS_STILL, migrate_recover=refuse(desc))
    with served as qemu, pytest.raises(CommandError, match=desc):
        monitor.recover(CHANNEL)
    tries = len(CHANNEL.ports) if desc is TAKEN else 1
    assert len(qemu.sent("migrate-recover")) == tries


@pytest.mark.usefixtures("impatient")
def test_monitor_that_was_not_connected_to_in_time(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    server = MonitorServer(Path(monitor.path), {"qmp_capabilities": stand_still})
    with server, pytest.raises(MonitorStuck, match="its main loop stands still"):
        monitor.look()


@pytest.mark.usefixtures("impatient")
def test_nothing_is_told_where_nobody_answers(make: Make, dom: Machine) -> None:
    monitor = make(counts=False)
    assert monitor.look() == Told()  # it was not offered
    monitor.offer(dom, {}, LIVE)
    assert monitor.look() == Told()  # nobody listens
    deaf = {name.replace("_", "-"): it for name, it in STANDS_STILL.items()}
    with MonitorServer(Path(monitor.path), deaf, greeting=DEAF):
        assert monitor.look() == Told()  # and no other way is open


def test_qemu_that_answers_tells_how_its_migration_is(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    info = {"return": {"status": "postcopy-paused"}}
    with _served(monitor, query_migrate=info):
        assert monitor.look() == Told("postcopy-paused")


@pytest.mark.usefixtures("impatient")
def test_silent_link_is_no_main_loop_that_stands_still_and_may_come_back(
    make: Make, dom: Machine
) -> None:
    """QEMU may take no other connection, and what is sent may be carried out when all has changed."""
    monitor = _offered(make, dom)
    with _served(monitor) as qemu:
        assert monitor.look() == Told("none")
        qemu.hold_back()
        assert monitor.look() == Told(is_silent=True)
        monitor.pause()
        with pytest.raises(MonitorSilent):
            monitor.recover(CHANNEL)
        assert qemu.sent("migrate-pause") == qemu.sent("migrate-recover") == []
        qemu.pass_on()
        assert monitor.recover(CHANNEL) == 49184
        assert len(qemu.sent("qmp_capabilities")) == 1, "it is the same connection"


@pytest.mark.usefixtures("impatient")
def test_link_that_dies_during_the_look_is_no_main_loop_that_stands_still(
    make: Make, dom: Machine
) -> None:
    monitor = _offered(make, dom)
    with _served(monitor, query_status=MonitorServer.hold_back):
        assert monitor.look() == Told(is_silent=True)


def test_connection_that_ends_is_made_anew_before_it_is_needed(
    make: Make, dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_monitor, "_STAY_S", 0.01)
    monitor = make()
    monitor.offer(dom, {}, LIVE)
    monitor.begin()
    with _served(monitor, query_migrate_capabilities=refuse("busy")) as qemu:
        wait_until(lambda: "query-migrate-capabilities" in qemu.commands(), "it", 5)
        qemu.hang_up()
        wait_until(lambda: len(qemu.sent("qmp_capabilities")) == 2, "another one", 5)


def test_connection_that_another_thread_has_made_is_kept(make: Make, dom: Machine) -> None:  # fmt: skip
    """Where both had lost the one before."""
    monitor = _offered(make, dom)
    with _served(monitor) as qemu:
        with pytest.raises(MonitorLost), monitor._asked(0.0) as lost:
            monitor._drop()
            assert monitor.look() == Told("none")
            lost.execute("query-status")
        assert monitor.look() == Told("none")
        assert len(qemu.sent("qmp_capabilities")) == 2


def test_connection_that_another_thread_has_made_in_place_of_a_lost_one_is_kept(
    make: Make, dom: Machine
) -> None:
    monitor = _offered(make, dom)
    with _served(monitor) as qemu:
        with pytest.raises(MonitorLost), monitor._asked(0.0) as lost:
            lost._disconnect()
            assert monitor.look() == Told("none")  # over the same object
            raise MonitorLost("the one before")
        assert monitor.look() == Told("none")
        assert len(qemu.sent("qmp_capabilities")) == 2


def test_machine_without_room_for_the_way_is_a_note(
    make: Make, dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(prefix: str) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", no_room)
    monitor = make(Way(host="b"))
    monitor.offer(dom, {}, LIVE)
    (note,) = monitor.notes
    assert "No space left" in note


def test_machine_that_has_no_room_any_more_tells_nothing(
    make: Make, dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room() -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monitor = _offered(make, dom)
    monkeypatch.setattr(asyncio, "new_event_loop", no_room)
    with _served(monitor):
        assert monitor.look() == Told()
        with pytest.raises(ConnectError, match="open files"):
            monitor.recover(CHANNEL)


#: As ssh does: makes the socket when it is let in, and ends when its command does.
_SSH = """#!/bin/sh
while [ "$1" != -L ]; do shift; done
echo $$ >>"$0.pids"
/bin/ln -s "${2#*:}" "${2%%:*}"
read line
"""


@pytest.mark.programs
def test_ssh_that_has_ended_is_started_anew(
    make: Make, dom: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(_SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monitor = make(Way(str(tmp_path), "b"), counts=False)
    with _served(monitor):
        monitor.offer(dom, {}, LIVE)
        assert monitor.look() == Told("none")
        (first,) = ssh.with_name("ssh.pids").read_text().split()
        os.kill(int(first), signal.SIGKILL)
        forward = monitor._forward
        assert forward is not None
        wait_until(lambda: not forward.is_open, "the end of ssh", 5)
        assert monitor.look() == Told("none")
    assert len(ssh.with_name("ssh.pids").read_text().split()) == 2


def test_it_is_connected_to_from_the_beginning(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    monitor.begin()
    with _served(monitor) as qemu:
        wait_until(lambda: "qmp_capabilities" in qemu.commands(), "the connection", 5)
    assert qemu.commands() == ["qmp_capabilities"]


def test_destination_that_refuses(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    refusal = refuse("Migrate recover can only be run when postcopy is paused.")
    with _served(monitor, migrate_recover=refusal), pytest.raises(CommandError):
        monitor.recover(CHANNEL)


def test_connection_that_was_lost_is_made_anew(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    with _served(monitor) as qemu:
        monitor.recover(CHANNEL)
        qemu.hang_up()
        with suppress(MonitorLost):  # if it has not noticed yet
            monitor.recover(CHANNEL)
        assert monitor.recover(CHANNEL) == 49184  # before QEMU 4.0 it tells no port


def test_nobody_is_asked_after_the_end(make: Make, dom: Machine) -> None:
    monitor = _offered(make, dom)
    monitor.close()
    with pytest.raises(ConnectError):
        monitor.recover(CHANNEL)
