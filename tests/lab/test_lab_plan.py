"""What can be asked for, without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit import LabError, plan
from labkit.cli import main
from labkit.layout import Folder, Node, default_folder
from labkit.network import parse_rate
from labkit.process import Process
from labkit.supervisor import Supervisor

LAB = Folder(Path("/run/lab"))


def planned(*names: str, **options: object) -> list[Node]:
    asked = {"releases": [], "unprivileged": [], "session": False, **options}
    return plan.nodes(LAB, names, **asked)  # type: ignore[arg-type]


def test_hosts_get_addresses_and_uuids_of_their_own() -> None:
    hosts = [node for node in planned("a", "b") if node.role == "host"]
    assert [host.address for host in hosts] == ["192.0.2.11", "192.0.2.12"]
    assert hosts[0].uuid != hosts[1].uuid
    assert hosts == [node for node in planned("a", "b") if node.role == "host"]


def test_switch_and_client_are_always_there() -> None:
    assert [node.role for node in planned("a")] == ["switch", "client", "host"]


@pytest.mark.parametrize(
    ["releases", "given"],
    [
        ([], [None, None, None]),
        (["x"], ["x", "x", "x"]),
        (["x", "y"], ["x", "y", None]),
    ],
)
def test_one_release_is_for_all_and_several_are_in_turn(
    monkeypatch: pytest.MonkeyPatch, releases: list[str], given: list[str | None]
) -> None:
    monkeypatch.setattr(plan, "_root", lambda release: f"/roots/{release}")
    hosts = planned("a", "b", "c", releases=releases)[2:]
    assert [host.release for host in hosts] == given
    assert hosts[0].root == (f"/roots/{given[0]}" if given[0] else None)


@pytest.mark.parametrize(
    ["names", "options", "why"],
    [
        ([], {}, "0 hosts: give 1 to 64"),
        (["a", "a"], {}, "'a' is given twice"),
        (["client"], {}, "host name 'client'"),
        (["A"], {}, "host name 'A'"),
        ([""], {}, "host name ''"),
        (["../a"], {}, "host name '../a'"),
        (["a" * 16], {}, "up to 15 letters"),
        (["a"], {"releases": ["x", "y"]}, "2 releases for 1 hosts"),
        (["a"], {"unprivileged": ["b"]}, "--unprivileged b: no such host"),
        (["a"], {"session": True, "unprivileged": ["a"]}, "a session lab has"),
    ],
)
def test_nonsense_is_refused(
    names: list[str], options: dict[str, object], why: str
) -> None:
    with pytest.raises(LabError, match=why):
        planned(*names, **options)


def test_folder_too_deep_for_sockets_is_refused() -> None:
    deep = Folder(Path("/tmp") / ("x" * 60))
    with pytest.raises(LabError, match="too long for the paths of sockets"):
        plan.nodes(deep, ["a"], releases=[], unprivileged=[], session=True)


@pytest.mark.parametrize(
    ["text", "rate"],
    [
        ("8000bit", 1000),
        ("100mbit", 12_500_000),
        ("1.5gbit", 187_500_000),
        ("32MiB", 32 << 20),
        ("32MiB/s", 32 << 20),
        ("10kib/s", 10 << 10),
    ],
)
def test_rates_are_read_as_written(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_state_folder_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_POSTCOPY_LAB_DIR", "/somewhere/else")
    assert default_folder() == Path("/somewhere/else")


def test_process_is_not_mistaken_for_a_later_one_with_its_pid() -> None:
    me = Process.of(os.getpid())
    assert me.is_alive()
    impostor = Process(me.pid, me.started - 1, me.boot)
    assert not impostor.is_alive()
    impostor.kill()  # would end this test


def test_status_of_no_lab_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBVIRT_POSTCOPY_LAB_DIR", str(tmp_path / "none"))
    assert main(["status"]) == 3
    assert capsys.readouterr().out == f"down ({tmp_path}/none)\n"
    assert main(["exec", "a", "true"]) == 1
    assert "run `lab up`" in capsys.readouterr().err


# the supervisor


def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(["/bin/sleep", "60"], {}, tmp_path / "console")


def end(daemon: Supervisor, now: float) -> None:
    assert daemon.pid is not None
    os.kill(daemon.pid, 9)
    daemon.ended(os.waitpid(daemon.pid, 0)[1], now)


def test_daemon_that_ends_is_started_again_at_once(tmp_path: Path) -> None:
    daemon = supervisor(tmp_path)
    daemon.start(100)
    end(daemon, 200)
    assert daemon.restart_at == 200
    daemon.tick(200)
    assert daemon.starts == 2
    daemon.kill(None)


def test_daemon_that_cannot_start_is_given_up(tmp_path: Path) -> None:
    daemon = supervisor(tmp_path)
    for now in (1.0, 1.5, 2.0):
        daemon.start(now)
        end(daemon, now + 0.1)
    assert daemon.restart_at is None
    assert daemon.report() == {"running": False, "starts": 3, "last_end": "signal 9"}


def test_killed_daemon_is_started_when_planned(tmp_path: Path) -> None:
    daemon = supervisor(tmp_path)
    daemon.start(1)
    daemon.kill(5)
    daemon.tick(4.9)
    assert daemon.pid is None
    daemon.tick(5)
    assert daemon.pid is not None
    daemon.kill(None)
    daemon.tick(1000)
    assert daemon.pid is None
