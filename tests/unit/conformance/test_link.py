"""The link between two QEMUs that can be cut, and a QEMU that cannot be killed."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from pathlib import Path

import pytest

from libvirt_postcopy.conformance.link import Link
from libvirt_postcopy.conformance.machine import Machine
from libvirt_postcopy.conformance.monitor import Hung, Record


def test_both_ends_see_a_cut_at_once_also_right_after_they_were_connected(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as destination:
        destination.bind(str(tmp_path / "mig"))
        destination.listen()
        link = Link(str(tmp_path / "mig"))
        try:
            port = int(link.uri.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), 5) as source:
                link.cut()
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    source.sendall(bytes(64 << 20))
            far = destination.accept()[0]
            with far:
                far.settimeout(5)
                assert far.recv(1) == b""
        finally:
            link.close()


def test_what_a_stall_has_held_does_not_arrive_when_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as destination:
        destination.bind(str(tmp_path / "mig"))
        destination.listen()
        link = Link(str(tmp_path / "mig"))
        flow = link.flow

        def flow_until_something_is_heard() -> None:
            """It is the end, or what was held, which a thread of the link's passes on."""
            flow()
            select.select([source], [], [], 10)

        try:
            port = int(link.uri.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), 5) as source:
                far = destination.accept()[0]
                with far:
                    link.stall(answers_only=True)
                    far.sendall(b"an answer")
                    with monkeypatch.context() as patch:
                        patch.setattr(link, "flow", flow_until_something_is_heard)
                        link.cut()
                try:
                    heard = source.recv(64)
                except ConnectionResetError:
                    heard = b""
                assert heard == b""
        finally:
            link.close()


def test_a_link_that_nobody_used_closes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libvirt_postcopy.conformance.link._ACCEPT_S", 30.0)
    link = Link(str(tmp_path / "nobody"))
    port = int(link.uri.rpartition(":")[2])
    begin = time.monotonic()
    link.close()
    assert time.monotonic() - begin < 10
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_process_that_does_not_end_is_said_and_not_waited_for() -> None:
    class Stuck:
        pid = 4711

        def kill(self) -> None:
            """Waits within the kernel."""

        def wait(self, timeout: float) -> int:
            raise subprocess.TimeoutExpired("qemu", timeout)

    machine = Machine.__new__(Machine)
    machine.side, machine.record, machine.process = "dst", Record(), Stuck()  # type: ignore[assignment]
    with pytest.raises(Hung, match="dst does not end"):
        machine.kill()
    assert "4711 does not end" in str(machine.record.lines[-1].msg)
