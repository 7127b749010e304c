from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorLost,
    MonitorSilent,
    MonitorStuck,
    ProtocolError,
    Qemu,
)
from libvirt_postcopy.qmp.socket import SocketMonitor
from unit.qmp.monitors import DEAF, GREETING, MonitorServer, refuse, stand_still
from waiting import wait_until

Make = Callable[..., SocketMonitor]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[SocketMonitor] = []

    def make(path: str, **options: Any) -> SocketMonitor:
        made.append(SocketMonitor(path, "destination", **options))
        return made[-1]

    yield make
    for monitor in made:
        monitor.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "postcopy-qmp-destination" not in names


def _never(server: MonitorServer) -> None:
    """No answer."""


def test_verbs_work_over_it(tmp_path: Path, make: Make) -> None:
    states = {"return": [{"capability": "postcopy-blocktime", "state": True}]}
    answers = {"query-migrate-capabilities": states}
    with MonitorServer(tmp_path / "qmp", answers) as server:
        monitor = make(server.path)
        monitor.connect()
        assert monitor.is_connected
        Qemu(monitor).set_capabilities({"postcopy-blocktime": True})
    assert server.commands()[1:] == [
        "migrate-set-capabilities",
        "query-migrate-capabilities",
    ]
    wanted = [{"capability": "postcopy-blocktime", "state": True}]
    assert server.asked[1]["arguments"] == {"capabilities": wanted}
    assert "arguments" not in server.asked[2]


def test_refusal(tmp_path: Path, make: Make) -> None:
    refused = refuse("nothing to recover", "DeviceNotFound")
    with MonitorServer(tmp_path / "qmp", {"migrate-recover": refused}) as server:
        monitor = make(server.path)
        monitor.connect()
        with pytest.raises(CommandError) as caught:
            monitor.execute("migrate-recover", {"uri": "tcp:192.0.2.1:1"})
        assert caught.value.desc == "nothing to recover"
        assert caught.value.error_class == "DeviceNotFound"
        assert caught.value.side == "destination"
        assert monitor.execute("stop") == {}  # it can still be asked


def test_nobody_listens(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectError, match=r"qmp cannot be reached: FileNotFound"):
        make(str(tmp_path / "qmp")).connect()
    assert caplog.records == [], "it is raised, and need not be logged too"


def test_not_a_monitor(tmp_path: Path, make: Make) -> None:
    greeting = b'{"SSH": 2}\r\n'
    words = "is no monitor of QEMU's"
    server = MonitorServer(tmp_path / "qmp", greeting=greeting)
    with server, pytest.raises(ProtocolError, match=words):
        make(server.path).connect()


def test_monitor_that_another_client_has(tmp_path: Path, make: Make) -> None:
    """QEMU accepts a second one and does not greet it."""
    words = "does not greet within 0.1 s"
    server = MonitorServer(tmp_path / "qmp", greeting=b"")
    with server, pytest.raises(ConnectError, match=words):
        make(server.path).connect(0.1)


def test_late_reply_is_not_taken_for_the_next(tmp_path: Path, make: Make) -> None:
    waiting: list[Any] = []

    def late(server: MonitorServer) -> None:
        waiting.append(server.asked[-1]["id"])

    with MonitorServer(tmp_path / "qmp", {"query-migrate": late}) as server:
        monitor = make(server.path, answer_s=1.0)
        monitor.connect()
        with pytest.raises(MonitorSilent, match="not answered query-migrate within"):
            monitor.execute("query-migrate")
        server.say({"return": {"status": "completed"}, "id": waiting[0]})
        assert monitor.execute("query-status") == {}


RECOVERS = ("migrate-pause", "migrate-recover")


@pytest.mark.parametrize(
    ("greeting", "how"), [(GREETING, "exec-oob"), (DEAF, "execute")]
)
def test_what_recovers_goes_out_of_band_where_that_is_offered(
    tmp_path: Path, make: Make, greeting: bytes, how: str
) -> None:
    with MonitorServer(tmp_path / "qmp", greeting=greeting) as server:
        monitor = make(server.path)
        monitor.connect()
        for command in (*RECOVERS, "query-migrate"):
            monitor.execute(command)
    (agreed,) = server.sent("qmp_capabilities")
    assert agreed["arguments"] == ({"enable": ["oob"]} if how == "exec-oob" else {})
    for command in RECOVERS:
        (sent,) = server.sent(command)
        assert sent[how] == command
    assert server.sent("query-migrate")[0]["execute"]


def test_main_loop_that_stands_still_is_asked_once_and_recovers(
    tmp_path: Path, make: Make
) -> None:
    is_free = threading.Event()

    def answer(server: MonitorServer) -> None:
        if is_free.is_set():
            server.say({"return": {}, "id": server.asked[-1]["id"]})

    with MonitorServer(tmp_path / "qmp", {"query-status": answer}) as server:
        monitor = make(server.path)
        monitor.connect()
        assert not monitor.takes_commands(0.05)
        assert not monitor.takes_commands(0.05)
        (question,) = server.sent("query-status")
        assert monitor.execute("migrate-recover") == {}
        is_free.set()
        server.say({"return": {}, "id": question["id"]})
        assert monitor.takes_commands(5)


def test_it_is_asked_anew_whether_it_stands_still(tmp_path: Path, make: Make) -> None:
    """An answer from before says nothing of now."""
    with MonitorServer(tmp_path / "qmp") as server:
        monitor = make(server.path)
        monitor.connect()
        assert monitor.takes_commands(5) and monitor.takes_commands(5)
        assert len(server.sent("query-status")) == 2
        server.hang_up()
        wait_until(lambda: not monitor.is_connected, "end of the connection", 5)
        with pytest.raises(MonitorLost):
            monitor.takes_commands(5)


def test_main_loop_that_owes_an_answer_is_asked_nothing_more(
    tmp_path: Path, make: Make
) -> None:
    """Behind eight commands QEMU would read nothing that is sent out of band."""
    with MonitorServer(tmp_path / "qmp", {"query-migrate": _never}) as server:
        monitor = make(server.path, answer_s=0.05)
        monitor.connect()
        with pytest.raises(MonitorSilent, match="not answered query-migrate within"):
            monitor.execute("query-migrate")
        for command in ("query-migrate", "query-status"):
            with pytest.raises(MonitorSilent, match=f"not asked {command}: it has not"):
                monitor.execute(command)
        assert not monitor.takes_commands(0.05)
        assert monitor.execute("migrate-recover") == {}
        (question,) = server.sent("query-migrate")
        assert server.sent("query-status") == []
        server.say({**refuse("too late"), "id": question["id"]})
        assert monitor.takes_commands(5), "a refusal is an answer"
        assert monitor.execute("query-status") == {}


@pytest.mark.parametrize("refusal", [{"return": []}, refuse("?", "CommandNotFound")])
def test_monitor_answers_though_the_main_loop_stands_still(
    tmp_path: Path, make: Make, refusal: dict[str, Any]
) -> None:
    """Before QEMU 6.0 it refuses, and that is heard too."""
    answers = {"query-status": stand_still, "query-yank": refusal}
    with MonitorServer(tmp_path / "qmp", answers) as server:
        monitor = make(server.path)
        monitor.connect()
        assert not monitor.takes_commands(0.05)
        assert monitor.answers(5)
        assert server.sent("query-yank")[0]["exec-oob"]


def test_way_that_is_silent_is_asked_once_and_heard_later(
    tmp_path: Path, make: Make
) -> None:
    with MonitorServer(tmp_path / "qmp") as server:
        monitor = make(server.path)
        monitor.connect()
        server.hold_back()
        assert not monitor.answers(0.05) and not monitor.answers(0.05)
        assert not monitor.takes_commands(0.05)
        assert monitor.is_connected, "it is not lost"
        assert len(server.sent("query-yank")) == len(server.sent("query-status")) == 1
        server.pass_on()
        assert monitor.answers(5) and monitor.takes_commands(5)
        assert monitor.execute("query-migrate") == {}
    assert server.commands().count("qmp_capabilities") == 1


def test_monitor_without_anything_out_of_band_answers_by_its_main_loop(
    tmp_path: Path, make: Make
) -> None:
    answers = {"query-status": stand_still}
    with MonitorServer(tmp_path / "qmp", answers, greeting=DEAF) as server:
        monitor = make(server.path)
        monitor.connect()
        assert not monitor.answers(0.05)
    assert "query-yank" not in server.commands()


def test_monitor_that_is_closed_meanwhile(tmp_path: Path, make: Make) -> None:
    """By another thread, which has not waited for this one."""
    with MonitorServer(tmp_path / "qmp") as server:
        monitor = make(server.path)
        monitor.connect()
        client = monitor._client
        monitor.close()
        monitor.close()
        for ask in (monitor.connect, lambda: monitor.execute("query-status")):
            with pytest.raises(MonitorLost):
                ask()
        monitor._client = client  # as that thread had it
        with pytest.raises(MonitorLost, match="it is closed"):
            monitor.execute("query-status")
        monitor._client = None


def test_main_loop_that_stands_still_agrees_on_nothing(
    tmp_path: Path, make: Make
) -> None:
    server = MonitorServer(tmp_path / "qmp", {"qmp_capabilities": stand_still})
    with server, pytest.raises(MonitorStuck, match="greets at .* takes no command"):
        make(server.path).connect(0.1)


def test_qemu_that_dies(tmp_path: Path, make: Make) -> None:
    with MonitorServer(tmp_path / "qmp", {"cont": MonitorServer.hang_up}) as server:
        monitor = make(server.path)
        monitor.connect()
        with pytest.raises(MonitorLost, match="not reached with cont"):
            monitor.execute("cont")
        wait_until(lambda: not monitor.is_connected, "end of the connection", 5)
        with pytest.raises(MonitorLost):
            monitor.execute("cont")


def test_connects_anew(tmp_path: Path, make: Make) -> None:
    with MonitorServer(tmp_path / "qmp") as server:
        monitor = make(server.path)
        monitor.connect()
        server.hang_up()
        monitor.connect()
        assert monitor.execute("query-status") == {}


def test_nothing_is_sent_without_a_connection(tmp_path: Path, make: Make) -> None:
    monitor = make(str(tmp_path / "qmp"))
    with pytest.raises(MonitorLost, match="not asked cont"):
        monitor.execute("cont")


def test_events(tmp_path: Path, make: Make) -> None:
    heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    with MonitorServer(tmp_path / "qmp", {"cont": _never}) as server:
        monitor = make(server.path, hear=lambda *event: heard.put(event))
        monitor.connect()
        stamp = {"seconds": 1, "microseconds": 2}
        data = {"status": "completed"}
        server.say({"event": "MIGRATION", "data": data, "timestamp": stamp})
        server.say({"event": "STOP", "timestamp": stamp})
        assert heard.get(timeout=5) == ("MIGRATION", data)
        assert heard.get(timeout=5) == ("STOP", {})
