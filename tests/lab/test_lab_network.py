"""The lab's links can be cut, slowed down, and their connections broken."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labkit import Lab, LabError
from waiting import wait_until

pytestmark = pytest.mark.root

MIGRATION_PORT = 49200
OTHER_PORT = 50200

#: Takes one connection and says when it ends how many bytes came in how many seconds.
SINK = """
import socket, sys, time
server = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
peer, _ = server.accept()
began, size = time.monotonic(), 0
try:
    while got := peer.recv(1 << 20):
        size += len(got)
except ConnectionResetError:
    print("reset", end=" ")
print(size, time.monotonic() - began)
"""

#: Sends as much as it can for so many seconds.
SOURCE = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
end = time.monotonic() + float(sys.argv[3])
try:
    while time.monotonic() < end:
        peer.sendall(bytes(1 << 16))
except ConnectionResetError:
    print("reset")
"""


class Stream:
    """One TCP connection from host a to host b that carries all it can."""

    def __init__(self, lab: Lab, port: int, seconds: float) -> None:
        python = [sys.executable, "-c"]
        self.sink = lab.host("b").popen(
            [*python, SINK, str(port)], stdout=subprocess.PIPE
        )
        assert self.sink.stdout
        assert self.sink.stdout.readline() == "ready\n"
        self.source = lab.host("a").popen(
            [*python, SOURCE, "b", str(port), str(seconds)], stdout=subprocess.PIPE
        )

    def end(self) -> list[str]:
        """Wait for both ends; what the sink has printed."""
        self.source.communicate(timeout=30)
        return self.sink.communicate(timeout=30)[0].split()

    def kill(self) -> None:
        for process in (self.source, self.sink):
            process.kill()
            process.communicate()


@contextmanager
def stream(lab: Lab, port: int, seconds: float = 30) -> Iterator[Stream]:
    flow = Stream(lab, port, seconds)
    try:
        yield flow
    finally:
        flow.kill()


@pytest.fixture(autouse=True)
def as_new(lab: Lab) -> Iterator[None]:
    yield
    lab.unlimit()
    lab.pass_migrations()
    for host in lab.hosts():
        lab.uncut(host.name)


def mib_s(lab: Lab, port: int) -> float:
    with stream(lab, port, 2) as flow:
        size, seconds = flow.end()
    return int(size) / float(seconds) / 2**20


@pytest.mark.parametrize(
    ["rate", "expected"],
    [("4MiB", 4), ("100mbit", 11.9), ("32MiB/s", 32), ("1gbit", 119)],
)
def test_limit_is_what_a_migration_gets(lab: Lab, rate: str, expected: float) -> None:
    lab.limit(rate)
    measured: list[float] = []
    # Who sends or receives may be held up, so it is less at times, and never more.
    while len(measured) < 5 and pytest.approx(expected, rel=0.15) not in measured:
        measured.append(mib_s(lab, MIGRATION_PORT))
        assert measured[-1] <= expected * 1.15
    assert pytest.approx(expected, rel=0.15) in measured


def test_limit_is_for_migrations_alone_and_can_be_taken_off(lab: Lab) -> None:
    lab.limit("4MiB")
    assert mib_s(lab, OTHER_PORT) > 40
    lab.unlimit()
    assert lab.rate("a") is None
    assert mib_s(lab, MIGRATION_PORT) > 40


def test_limit_replaces_the_one_before_and_can_be_for_one_host(lab: Lab) -> None:
    lab.limit("4MiB")
    lab.limit("8MiB", ["a"])
    rates = [round((lab.rate(host.name) or 0) / 2**20) for host in lab.hosts()]
    assert rates == [8, 4]


def test_libvirt_answers_as_before_while_a_limited_link_is_full(lab: Lab) -> None:
    lab.limit("1MiB")
    virsh = ["virsh", "-c", lab.host("b").tcp_uri, "list"]

    def seconds() -> float:
        began = time.monotonic()
        lab.host("a").run(virsh)
        return time.monotonic() - began

    idle = min(seconds() for _ in range(3))
    with stream(lab, MIGRATION_PORT):
        _wait_until_established(lab, MIGRATION_PORT)
        # Each of them would wait in the queue, if there were one for both.
        assert any(seconds() < idle + 0.1 for _ in range(15))


@pytest.mark.parametrize("rate", ["", "fast", "5", "10 apples", "-1mbit", "1bit"])
def test_bad_rate_is_refused(lab: Lab, rate: str) -> None:
    with pytest.raises(LabError, match="^rate "):
        lab.limit(rate)


def test_cut_link_carries_nothing_and_heals(lab: Lab) -> None:
    with stream(lab, OTHER_PORT, 3) as flow:
        lab.cut("b")
        assert lab.is_cut("b")
        assert not lab.is_cut("a")
        with pytest.raises(subprocess.TimeoutExpired):
            flow.source.wait(3.5)
        # Nobody was told, so the connection is there again.
        lab.uncut("b")
        assert "reset" not in flow.end()


def test_black_hole_swallows_migrations_only_and_heals(lab: Lab) -> None:
    with stream(lab, MIGRATION_PORT, 3) as flow, stream(lab, OTHER_PORT, 1) as other:
        _wait_until_established(lab, MIGRATION_PORT)
        lab.swallow_migrations()
        with pytest.raises(subprocess.TimeoutExpired):
            flow.source.wait(6)
        assert "reset" not in other.end()
        lab.pass_migrations()
        assert "reset" not in flow.end(), "a hole is no end of a connection"


def test_cut_host_can_still_be_asked(lab: Lab) -> None:
    lab.cut("b")
    assert lab.host("b").virsh("hostname").strip() == "b"


def test_break_kills_both_ends_of_migrations_only(lab: Lab) -> None:
    with stream(lab, MIGRATION_PORT) as flow, stream(lab, OTHER_PORT) as other:
        _wait_until_established(lab, MIGRATION_PORT)
        _wait_until_established(lab, OTHER_PORT)
        # The reset that the first end sends may have been as quick as we are.
        assert lab.break_migrations() in (1, 2)
        flow.source.wait(5)
        flow.sink.wait(5)
        assert other.source.poll() is None
        assert other.sink.poll() is None


def test_break_works_while_the_link_is_cut(lab: Lab) -> None:
    with stream(lab, MIGRATION_PORT) as flow:
        _wait_until_established(lab, MIGRATION_PORT)
        lab.cut("a")
        assert lab.break_migrations() == 2
        flow.source.wait(5)
        flow.sink.wait(5)


def _wait_until_established(lab: Lab, port: int) -> None:
    wait_until(lambda: _established(lab, port), f"a connection to port {port}", 10)


def _established(lab: Lab, port: int) -> bool:
    show = ["ss", "-H", "-t", "-n", "state", "established", f"sport = :{port}"]
    return bool(lab.host("b").run(show).stdout)
