"""Without root there is a clear word, and a lab of session daemons."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_helpers import DOMAIN

pytestmark = pytest.mark.root

TOOLS = Path(__file__).parents[2] / "tools"


class User:
    """An ordinary user with a home and a copy of the tools."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lab = home / "lab"
        # The project may be in a folder that others cannot read.
        shutil.copytree(TOOLS / "labkit", home / "labkit")
        shutil.copy(TOOLS / "lab", home / "lab-tool")
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534)

    def tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        own = [f"LIBVIRT_POSTCOPY_LAB_DIR={self.lab}", f"HOME={self.home}"]
        return subprocess.run(
            [
                *become,
                "env",
                *own,
                "/usr/bin/python3",
                str(self.home / "lab-tool"),
                *words,
            ],
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ok(self, *words: str) -> str:
        done = self.tool(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[str]:
        mark = f"{self.lab}".encode()
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark in file.read_bytes():
                    found.append(file.read_text())
            except OSError:
                continue
        return found


@pytest.fixture
def user() -> Iterator[User]:
    # pytest's own folders are closed to others, and long for the paths of sockets.
    home = Path("/tmp") / f"lab-user-{os.getpid()}"
    home.mkdir()
    user = User(home)
    yield user
    user.tool("down")
    assert user.processes() == []
    shutil.rmtree(home)


def test_refusal_names_the_session_lab_and_the_sysctl(user: User) -> None:
    done = user.tool("up")
    assert done.returncode == 1
    assert "needs root; run it with sudo" in done.stderr
    assert "lab up --session" in done.stderr
    allowed = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1"
    assert ("vm.unprivileged_userfaultfd=1" in done.stderr) == (not allowed)
    assert done.stderr.count("\n") == 1


def test_session_daemons_come_migrate_and_go(user: User) -> None:
    user.ok("up", "--session")
    assert user.ok("up", "--session") == "up already: a b\n"
    (user.home / "idle.xml").write_text(DOMAIN.format(name="idle"))
    user.ok("virsh", "a", "create", "idle.xml")
    to_b = user.ok("uri", "b").strip()
    channel = f"unix://{user.home}/migration"
    user.ok("virsh", "a", "migrate", "--live", "idle", to_b, "--migrateuri", channel)
    assert "b: release installed, libvirtd up, domains idle" in user.ok("status")
    assert "idle" in user.ok("exec", "b", "virsh", "-c", "qemu:///session", "list")
    user.ok("kill-daemon", "b")
    assert "idle" in user.ok("virsh", "b", "list")
    user.ok("down")
    assert user.processes() == []
    assert not user.lab.exists()


@pytest.mark.parametrize(
    "words", [["cut"], ["break"], ["limit", "1gbit"], ["unlimit"], ["add-host", "c"]]
)
def test_session_lab_has_no_network(user: User, words: list[str]) -> None:
    user.ok("up", "--session", "--hosts", "a")
    done = user.tool(*words)
    assert done.returncode == 1
    assert "this needs a lab of root" in done.stderr


def test_down_finds_a_guest_whose_holder_was_killed(user: User) -> None:
    user.ok("up", "--session", "--hosts", "a")
    (user.home / "idle.xml").write_text(DOMAIN.format(name="idle"))
    user.ok("virsh", "a", "create", "idle.xml")
    subprocess.run(["pkill", "-KILL", "-f", f"labkit.holder {user.lab} a"], check=True)
    user.ok("down")
    assert user.processes() == []
