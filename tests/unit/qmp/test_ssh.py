from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from libvirt_postcopy.qmp.commands import ConnectError
from libvirt_postcopy.qmp.socket import SocketMonitor
from libvirt_postcopy.qmp.ssh import SshForward
from unit.qmp.monitors import MonitorServer
from waiting import wait_until

#: As ssh does: makes the socket when it is let in, and ends when its command does.
_SSH = f"""#!{sys.executable}
import os, sys
args = sys.argv[1:]
with open(os.path.join({{folder!r}}, "argv"), "w") as out:
    out.write("\\n".join([str(os.getpid()), *args]))
local, remote = args[args.index("-L") + 1].split(":")
os.symlink(remote, local)
sys.stdin.read()
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ssh"
    path.write_text(_SSH.format(folder=str(tmp_path)))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def _argv(ssh: Path) -> list[str]:
    return ssh.with_name("argv").read_text().splitlines()


@pytest.mark.programs
def test_monitor_of_another_host(ssh: Path, tmp_path: Path) -> None:
    with MonitorServer(tmp_path / "qmp") as server:
        forward = SshForward("b.example", server.path, user="root", port=2222)
        local = forward.open(10)
        try:
            assert stat.S_IMODE(os.stat(os.path.dirname(local)).st_mode) == 0o700
            monitor = SocketMonitor(local, "destination")
            monitor.connect()
            assert monitor.execute("query-status") == {}
            monitor.close()
            assert forward.is_open
        finally:
            forward.close()
    assert not forward.is_open
    pid, *argv = _argv(ssh)
    assert argv[-3:] == ["--", "b.example", "cat"]
    assert argv[argv.index("-l") :][:4] == ["-l", "root", "-p", "2222"]
    assert argv[argv.index("-L") + 1] == f"{local}:{server.path}"
    assert {"BatchMode=yes", "ExitOnForwardFailure=yes"} <= set(argv)
    # Debian's ssh asks for a sign of life in batch mode, and a user's configuration may, too.
    assert {"ServerAliveInterval=0", "TCPKeepAlive=no"} <= set(argv)
    assert not os.path.exists(os.path.dirname(local))
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.programs
def test_host_that_does_not_let_us_in(ssh: Path, tmp_path: Path) -> None:
    ssh.write_text("#!/bin/sh\necho banner >&2\necho 'b: Permission denied' >&2\nexit 255\n")  # fmt: skip
    with pytest.raises(ConnectError, match="ssh b: b: Permission denied"):
        SshForward("b", "/qmp").open(10)


@pytest.mark.programs
def test_last_words_are_not_waited_for_while_a_child_of_ssh_could_say_more(
    ssh: Path, tmp_path: Path
) -> None:
    """As a ProxyCommand does that outlives it."""
    ssh.write_text(f"#!/bin/sh\n/bin/sleep 5 &\necho $! >{tmp_path}/child\necho 'Permission denied' >&2\nexit 255\n")  # fmt: skip
    with pytest.raises(ConnectError, match="Permission denied"):
        SshForward("b", "/qmp").open(10)
    child = int((tmp_path / "child").read_text())
    assert Path(f"/proc/{child}/cmdline").read_text(), "it has ended"
    os.kill(child, signal.SIGKILL)


@pytest.mark.programs
def test_ssh_that_says_much_is_not_stopped_by_a_full_pipe(
    ssh: Path, tmp_path: Path
) -> None:
    much = "sys.stderr.write('channel 3: open failed\\n' * 9999)\nos.symlink"
    ssh.write_text(ssh.read_text().replace("os.symlink", much))
    with MonitorServer(tmp_path / "qmp") as server:
        forward = SshForward("b", server.path)
        forward.open(5)
        forward.close()


@pytest.mark.programs
def test_host_that_does_not_answer(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\necho $$ >$0.pid\nread line\n")
    forward = SshForward("b", "/qmp")
    with pytest.raises(ConnectError, match="no connection in time"):
        forward.open(0.3)
    pid = wait_until(
        lambda: ssh.with_name("ssh.pid").read_text().strip(), "its number", 5
    )
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.programs
def test_host_is_not_waited_for_when_all_is_over(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\nread line\n")
    is_over = threading.Event()
    threading.Timer(0.1, is_over.set).start()
    began = time.monotonic()
    with pytest.raises(ConnectError):
        SshForward("b", "/qmp").open(60, is_over)
    assert time.monotonic() - began < 30


@pytest.mark.programs
def test_no_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConnectError, match="cannot be started"):
        SshForward("b", "/qmp").open(1)


@pytest.mark.parametrize(
    ("host", "path"),
    [("b", "/a:/etc"), ("b", "/%h"), ("b", "/${HOME}"), ("b", "qmp"), ("b c", "/qmp")],
)
def test_names_that_ssh_reads_as_something_else(host: str, path: str) -> None:
    with pytest.raises(ConnectError, match="cannot be given"):
        SshForward(host, path)


@pytest.mark.programs
def test_ends_when_this_program_does(ssh: Path, tmp_path: Path) -> None:
    """However it ends: what runs there reads from us."""
    forward = SshForward("b", str(tmp_path))
    ssh.write_text(ssh.read_text().replace("os.symlink(remote, local)", "import socket; socket.socket(socket.AF_UNIX).bind(local)"))  # fmt: skip
    forward.open(10)
    process = forward._process
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    forward.close()
