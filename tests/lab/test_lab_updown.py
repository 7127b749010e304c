"""The lab comes, goes, and leaves nothing, whatever happens in between."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_helpers import TOOL, leftovers, start_domain, tool

from labkit import Host, Lab, LabError, NotUpError
from waiting import wait_until

pytestmark = pytest.mark.root


def network_devices() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def leave_in_background(host: Host) -> None:
    host.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])


def started_by_hand(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(TOOL), "up"],
        env={**os.environ, "LIBVIRT_POSTCOPY_LAB_DIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_up_is_quick_and_every_daemon_answers(folder: Path) -> None:
    lab = Lab(folder)
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=5) >= 5:
        lab.down()
        began = time.monotonic()
        assert lab.up()
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 5, took_s
    assert [host.name for host in lab.hosts()] == ["a", "b"]
    assert [host.virsh("hostname").strip() for host in lab.hosts()] == ["a", "b"]


def test_root_namespaces_are_left_alone(folder: Path) -> None:
    mounts, devices = Path("/proc/self/mountinfo").read_text(), network_devices()
    Lab(folder).up()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert network_devices() == devices


def test_down_ends_daemons_guests_and_background_commands(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    start_domain(lab, "a", "guest")
    for host in (lab.client, lab.host("b")):
        leave_in_background(host)
    assert len(leftovers(folder)) > 8
    assert lab.down()
    assert leftovers(folder) == []


def test_down_without_a_lab_says_so(folder: Path) -> None:
    assert not Lab(folder).down()
    assert tool(folder, "down").stdout == "down already\n"


def test_up_twice_is_up_once(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    before = lab.host("a").holder
    assert not lab.up()
    assert lab.host("a").holder == before
    assert tool(folder, "up").stdout == "up already: a b\n"


def test_up_of_a_different_lab_is_refused(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    with pytest.raises(LabError, match="a different lab is up; run `lab down`"):
        lab.up(["a", "b", "c"])
    assert lab.is_up()


def test_two_labs_do_not_see_each_other(folder: Path, tmp_path: Path) -> None:
    with Lab(folder) as one, Lab(tmp_path / "other") as other:
        start_domain(one, "a", "guest")
        assert one.host("a").domains() == ["guest"]
        assert other.host("a").domains() == []
        other.down()
        assert one.host("a").domains() == ["guest"]


def test_foreign_folder_is_neither_used_nor_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    lab = Lab(tmp_path)
    with pytest.raises(LabError, match="holds other files"):
        lab.up()
    assert not lab.down()
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.fixture(scope="module")
def up_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long `up` takes on this machine, now."""
    folder = tmp_path_factory.mktemp("timed") / "lab"
    began = time.monotonic()
    assert started_by_hand(folder).wait(30) == 0
    took_s = time.monotonic() - began
    Lab(folder).down()
    return took_s


def stop_midway(folder: Path, delay_s: float, number: signal.Signals) -> None:
    """Send a signal to an `up` under way; to a later one sooner if it was too late."""
    for _ in range(10):
        up = started_by_hand(folder)
        try:
            up.wait(delay_s)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, number)
        # It may be whole and its maker not have ended yet.
        if up.wait(10) != 0 and not Lab(folder).is_up():
            return
        Lab(folder).down()
        delay_s *= 0.8
    pytest.fail(f"up was quicker than the signal each time, at last {delay_s:.3f} s")


SHARES = [0.1, 0.3, 0.5, 0.65, 0.8, 0.95]
"""Of the time that `up` takes."""


@pytest.mark.parametrize("share", SHARES)
def test_interrupted_up_undoes_itself(folder: Path, up_s: float, share: float) -> None:
    stop_midway(folder, share * up_s, signal.SIGINT)
    wait_until(lambda: leftovers(folder) == [], "nothing left", 10)


@pytest.mark.parametrize("share", SHARES)
def test_killed_up_leaves_no_process(folder: Path, up_s: float, share: float) -> None:
    stop_midway(folder, share * up_s, signal.SIGKILL)
    wait_until(lambda: set(leftovers(folder)) <= {str(folder)}, "no process left", 10)
    Lab(folder).down()
    assert leftovers(folder) == []


def test_up_clears_what_a_crash_has_left(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    for name in ("a", "client"):
        lab.host(name).holder.kill()
    wait_until(lambda: not lab.host("a").node.is_alive(), "host a gone", 10)
    assert not lab.is_up()
    with pytest.raises(NotUpError, match="host a is gone"):
        lab.host("a").run(["true"])
    assert lab.up()
    assert lab.host("a").virsh("hostname") == "a\n\n"


def test_down_finds_what_is_left_in_a_client_without_holder(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    leave_in_background(lab.client)
    lab.client.holder.kill()
    lab.down()
    assert leftovers(folder) == []


def test_down_from_inside_would_end_its_caller(folder: Path) -> None:
    lab = Lab(folder)
    lab.up()
    down = lab.client.run([sys.executable, str(TOOL), "down"], check=False)
    assert (down.returncode, down.stderr) == (
        1,
        "error: this would end its caller; run it outside of the lab\n",
    )
    assert lab.is_up()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty root of a release that `up` is given."""
    root = tmp_path / "root"
    for name in ("etc", "dev", "sys", "run", "proc", "var"):
        (root / name).mkdir(parents=True)
    answer(tmp_path, f"echo {root}", monkeypatch)
    return root


def answer(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell command answer for ``tools/qemu-versions``."""
    tool = folder / "qemu-versions"
    tool.write_text(f"#!/bin/sh\n{command}\n")
    tool.chmod(0o755)
    monkeypatch.setattr("labkit.plan.QEMU_VERSIONS", tool)


def install_libvirtd(root: Path, program: str) -> None:
    """Put a program where a release has libvirtd, with the libraries it needs."""
    for name in ("lib", "log", "cache"):
        (root / "var" / name / "libvirt").mkdir(parents=True)
    (root / "usr/sbin").mkdir(parents=True)
    shutil.copy(program, root / "usr/sbin/libvirtd")
    for library in re.findall(r"/\S+", subprocess.getoutput(f"ldd {program}")):
        copy = root / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)


def test_daemon_that_does_not_start_is_told(folder: Path, root: Path) -> None:
    install_libvirtd(root, "/bin/false")
    with pytest.raises(LabError, match="host a: libvirtd ended with exit status 1"):
        Lab(folder).up(releases=["sid"])
    assert leftovers(folder) == []


def test_root_without_daemon_is_refused(folder: Path, root: Path) -> None:
    install_libvirtd(root, "/bin/false")
    (root / "usr/sbin/libvirtd").unlink()
    with pytest.raises(LabError, match="/usr/sbin/libvirtd is missing"):
        Lab(folder).up(releases=["sid"])
    assert leftovers(folder) == []


def test_root_without_libvirts_folders_is_refused(folder: Path, root: Path) -> None:
    with pytest.raises(LabError, match="/var/lib/libvirt is missing"):
        Lab(folder).up(releases=["sid"])
    assert leftovers(folder) == []


def test_release_that_cannot_be_had_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, "echo 'error: no release '$2 >&2; exit 1", monkeypatch)
    with pytest.raises(LabError, match="root potato: no release potato"):
        Lab(folder).up(releases=["potato"])
    assert leftovers(folder) == []
