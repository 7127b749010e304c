"""A host is a machine of its own to libvirt, and its daemon can be killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_helpers import TOOL, leftovers, start_domain

from labkit import Host, Lab, LabError, NoRootError, NotUpError, ToolError
from waiting import wait_until

pytestmark = pytest.mark.root

BOUND_S = 10

UNPRIVILEGED_USERFAULTFD = Path("/proc/sys/vm/unprivileged_userfaultfd")


def inside(host: Host, *words: str) -> str:
    """Run ``tools/lab`` on a host or the client."""
    return host.run([sys.executable, str(TOOL), *words]).stdout


def migrate(lab: Lab, domain: str, *options: str, to: str = "b") -> None:
    virsh = ["virsh", "-c", lab.host("a").tcp_uri, "migrate", "--live"]
    lab.client.run([*virsh, *options, domain, lab.host(to).tcp_uri])


@pytest.mark.parametrize("name", ["a", "b", "client"])
def test_every_name_resolves_everywhere(lab: Lab, name: str) -> None:
    address = lab.host(name).address
    for host in (*lab.hosts(), lab.client):
        found = host.run(["getent", "hosts", name]).stdout.split()
        assert found == [address, name]


def test_hosts_differ_where_libvirt_looks(lab: Lab) -> None:
    for command in ("hostname", "cat /etc/machine-id", "cat /etc/hostname"):
        seen = {host.run(command.split()).stdout for host in lab.hosts()}
        assert len(seen) == 2, command
    uuids = {
        re.search(r"<uuid>(.*)</uuid>", host.virsh("capabilities"))
        for host in lab.hosts()
    }
    assert {found and found[1] for found in uuids} == {
        host.node.uuid for host in lab.hosts()
    }


def test_machines_files_and_cgroups_are_left_alone(lab: Lab, domain: str) -> None:
    assert lab.host("a").run(["cat", "/etc/libvirt/libvirtd.conf"]).stdout
    for folder in ("/run/libvirt/libvirt-sock", "/var/log/libvirt/qemu/idle.log"):
        assert lab.host("a").path(folder).exists()
        assert not Path(folder).exists()
    assert not list(Path("/sys/fs/cgroup").rglob("*qemu*idle*"))
    assert "cgroup" not in lab.host("a").run(["cat", "/proc/mounts"]).stdout


def test_orphans_are_reaped(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["setsid", "--fork", "true"])
    wait_until(
        lambda: "Z" not in host.run(["ps", "-e", "-o", "stat="]).stdout,
        "the orphan reaped",
        BOUND_S,
    )
    assert "libvirtd" not in host.run(["cat", "/proc/1/cmdline"]).stdout


def test_kvm_is_hidden_and_userfaultfd_is_not(lab: Lab) -> None:
    devices = lab.host("a").run(["ls", "/dev"]).stdout.split()
    assert "kvm" not in devices
    assert ("userfaultfd" in devices) == Path("/dev/userfaultfd").exists()


def test_shared_folder_is_the_same_everywhere(lab: Lab) -> None:
    note = lab.shared / "note"
    lab.host("a").run(["sh", "-c", f"echo written by a > {note}"])
    for host in (lab.host("b"), lab.client):
        assert host.run(["cat", str(note)]).stdout == "written by a\n"
    assert note.read_text() == "written by a\n"


# commands


def test_command_keeps_folder_status_and_both_streams(lab: Lab) -> None:
    for host in (lab.host("a"), lab.client):
        done = host.run(["sh", "-c", "pwd; echo e >&2; exit 7"], check=False)
        assert (done.returncode, done.stdout, done.stderr) == (
            7,
            f"{Path.cwd()}\n",
            "e\n",
        )


def test_failed_command_names_host_and_reason(lab: Lab) -> None:
    with pytest.raises(ToolError, match="a: ls /none: .*No such file"):
        lab.host("a").run(["ls", "/none"])


@pytest.mark.parametrize("name", ["a", "client"])
def test_command_is_killed_at_its_time_limit(lab: Lab, name: str) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        lab.host(name).run(["sleep", "987"], timeout=0.5)
    wait_until(
        lambda: not [p for p in leftovers(lab.folder.path) if "sleep 987" in p],
        "sleep gone",
        BOUND_S,
    )


@pytest.mark.parametrize("name", ["a", "client"])
def test_command_whose_reader_goes_away_ends_without_a_word(
    lab: Lab, name: str
) -> None:
    with subprocess.Popen(
        [sys.executable, str(TOOL), "exec", name, "yes"],
        env={**os.environ, "LIBVIRT_POSTCOPY_LAB_DIR": str(lab.folder.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout and command.stderr
        assert command.stdout.readline() == "y\n"
        command.stdout.close()
        assert command.stderr.read() == ""


def test_unknown_host_is_refused_with_the_known_ones(lab: Lab) -> None:
    with pytest.raises(LabError, match="no host 'z'; there are a b client"):
        lab.host("z")
    with pytest.raises(LabError, match="client has no libvirt daemon"):
        assert lab.client.uri


def test_lab_that_is_not_up_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotUpError, match="no lab is up in .*; run `lab up`"):
        Lab.attach(tmp_path)


def test_everything_works_from_within_the_client(lab: Lab, domain: str) -> None:
    client = lab.client
    assert inside(client, "exec", "b", "hostname") == "b\n"
    assert inside(client, "uri", "a") == f"{lab.host('a').uri}\n"
    assert domain in inside(client, "virsh", "a", "list", "--name")
    assert inside(client, "cut", "b") == "b: cut off\n"
    assert lab.is_cut("b")
    inside(client, "uncut")
    inside(client, "limit", "32MiB")
    assert lab.rate("a") == pytest.approx(32 << 20, rel=0.01)
    inside(client, "unlimit")
    inside(client, "kill-daemon", "a")
    assert "link up, domains idle" in inside(client, "status")


def test_another_user_is_sent_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    with pytest.raises(NoRootError, match="is another user's"):
        lab.down()
    with pytest.raises(NoRootError, match="is another user's"):
        lab.host("a")


# the daemon


@pytest.fixture
def qemu_pid(lab: Lab, domain: str) -> Iterator[str]:
    """The pid of the domain's QEMU, which must be the same at the end."""
    host = lab.host("a")
    pid = host.run(["pgrep", "-f", "guest=idle"]).stdout
    yield pid
    host.start_daemon()
    host.wait_ready()
    assert host.run(["pgrep", "-f", "guest=idle"]).stdout == pid
    assert host.domains() == [domain]


def test_killed_daemon_comes_back_and_finds_its_guests(lab: Lab, qemu_pid: str) -> None:
    host = lab.host("a")
    starts = host.daemon()["starts"]
    host.kill_daemon()
    host.wait_ready()
    assert host.daemon()["starts"] == starts + 1
    assert host.daemon()["last_end"] == "killed"


def test_daemon_stays_down_until_it_is_started(lab: Lab, qemu_pid: str) -> None:
    host = lab.host("a")
    host.kill_daemon(None)
    assert host.daemon()["running"] is False
    with pytest.raises(ToolError, match="Connection refused"):
        host.domains()
    assert lab.describe(host)["libvirtd"] == "down"


def test_daemon_comes_back_after_the_time_given(lab: Lab, qemu_pid: str) -> None:
    host = lab.host("a")
    began = time.monotonic()
    host.kill_daemon(3)
    assert host.daemon()["running"] is False
    wait_until(lambda: bool(host.daemon()["running"]), "libvirtd up", BOUND_S)
    assert time.monotonic() - began > 2.9


def test_daemon_that_crashes_by_itself_comes_back(lab: Lab, qemu_pid: str) -> None:
    host = lab.host("a")
    host.run(["pkill", "-SEGV", "-x", "libvirtd"])
    wait_until(
        lambda: host.daemon()["last_end"] == "signal 11", "the crash noticed", BOUND_S
    )
    host.wait_ready()


# migrations


@pytest.mark.parametrize("options", [[], ["--p2p"]])
def test_post_copy_works_between_the_hosts(
    lab: Lab, domain: str, options: list[str]
) -> None:
    migrate(lab, domain, "--postcopy", "--postcopy-after-precopy", *options)
    assert lab.host("a").domains() == []
    assert lab.host("b").state(domain) == "running (migrated)"


def test_log_has_monitor_messages_with_milliseconds(lab: Lab, domain: str) -> None:
    migrate(lab, domain)
    log = lab.host("a").log_path.read_text()
    stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+0000: .*"
    for message in (
        'QEMU_MONITOR_SEND_MSG: .*"execute":"migrate"',
        'QEMU_MONITOR_RECV_EVENT: .*"event": "MIGRATION"',
    ):
        assert re.search(stamp + message, log, re.MULTILINE), message
    assert "initiating migration" in lab.host("a").qemu_log(domain).read_text()


def test_host_can_be_added_and_removed(lab: Lab, domain: str) -> None:
    added = lab.add_host("c")
    assert added.address == "192.0.2.13"
    migrate(lab, domain, "--p2p", to="c")
    assert added.domains() == [domain]
    added.virsh("migrate", "--live", "--p2p", domain, lab.host("a").tcp_uri)
    lab.remove_host("c")
    assert lab.host("a").run(["getent", "hosts", "c"], check=False).returncode == 2
    lab.add_host("c")
    lab.remove_host("c")


@pytest.fixture
def no_unprivileged_userfaultfd() -> Iterator[None]:
    """The kernel's default, also on a machine whose owner has changed it."""
    before = UNPRIVILEGED_USERFAULTFD.read_text()
    if before.strip() == "0":
        yield
        return
    try:
        UNPRIVILEGED_USERFAULTFD.write_text("0")
    except OSError as error:
        pytest.fail(f"{error}; run sysctl vm.unprivileged_userfaultfd=0")
    try:
        yield
    finally:
        UNPRIVILEGED_USERFAULTFD.write_text(before)


def test_host_with_an_ordinary_user_refuses_post_copy(
    lab: Lab, domain: str, no_unprivileged_userfaultfd: None
) -> None:
    lab.add_host("weak", unprivileged=True)
    try:
        with pytest.raises(ToolError, match="Postcopy is not supported"):
            migrate(lab, domain, "--postcopy", to="weak")
        migrate(lab, domain, to="weak")
        assert lab.host("weak").domains() == [domain]
    finally:
        lab.remove_host("weak")
    start_domain(lab, "a", domain)
