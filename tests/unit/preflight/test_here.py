"""What this machine tells by itself."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from libvirt_postcopy.domxml import Disk
from libvirt_postcopy.preflight import here
from libvirt_postcopy.preflight.facts import DiskPlace, TlsFiles, Unknown
from libvirt_postcopy.vir import here as vir_here


@pytest.mark.parametrize(
    "uri, local",
    [
        ("qemu:///system", True),
        ("qemu+unix:///session", True),
        ("qemu+tls://b/system", False),
        ("qemu+ssh://root@b/system", False),
        ("qemu+unix:///system?socket=/run/other/sock", False),
        ("qemu+ssh://[2001:db8::1]/system", False),
    ],
)
def test_local_uri(uri: str, local: bool) -> None:
    assert here.is_local(uri) is local


def test_daemon_is_here_if_it_has_our_name_too() -> None:
    ours = socket.gethostname().partition(".")[0]
    assert here.is_here("qemu:///system", ours)
    assert here.is_here("qemu:///system", f"{ours}.example.org")
    assert not here.is_here("qemu:///system", f"{ours}x")
    assert not here.is_here("qemu+tls://b/system", ours)


@pytest.mark.parametrize("text, allowed", [("1\n", True), ("0\n", False)])
def test_kernels_word_on_userfaultfd(
    text: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "SYSCTL", tmp_path / "sysctl")
    assert isinstance(here.userfaultfd(), Unknown)
    here.SYSCTL.write_text(text)
    assert here.userfaultfd() is allowed


def mounts(tmp_path: Path, **types: str) -> str:
    lines = ["1 0 8:1 / / rw - ext4 /dev/sda1 rw"]
    for name, kind in types.items():
        point = str(tmp_path / name).replace(" ", "\\040")
        lines.append(f"2 1 0:9 / {point} rw,noatime shared:1 - {kind} src rw")
    return "\n".join(lines) + "\n"


def test_disks_lie_on_the_nearest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(mounts(tmp_path, nfs="nfs4") + mounts(tmp_path, **{"a b": "xfs"}))
    monkeypatch.setattr(here, "MOUNTS", table)
    for folder in ("nfs", "a b"):
        (tmp_path / folder).mkdir()
    link = tmp_path / "link.qcow2"
    link.symlink_to(tmp_path / "nfs" / "real.qcow2")
    disks = [
        Disk("vda", "file", str(tmp_path / "nfs" / "deep" / "x.qcow2")),
        Disk("vdb", "file", str(tmp_path / "a b" / "x")),
        Disk("vdc", "file", str(tmp_path / "nfs2")),
        Disk("vdd", "file", str(link)),
        Disk("vde", "block", "/dev/sdb"),
    ]
    assert here.disk_places(disks) == (
        DiskPlace("vda", "nfs4"),
        DiskPlace("vdb", "xfs"),
        DiskPlace("vdc", "ext4"),
        DiskPlace("vdd", "nfs4"),
    )


@pytest.mark.parametrize("text", [None, "nonsense - \n"])
def test_table_of_mounts_that_cannot_be_read(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    if text is not None:
        table.write_text(text)
    monkeypatch.setattr(here, "MOUNTS", table)
    assert isinstance(here.disk_places([Disk("vda", "file", "/x")]), Unknown)


def test_names_are_resolved_as_the_system_does() -> None:
    assert here.is_resolved("127.0.0.1") and here.is_resolved("::1")
    assert not here.is_resolved("no-such-name.invalid")
    assert not here.is_resolved("x" * 300)


def test_port_that_is_open_and_port_on_which_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert here.connection_refusal("127.0.0.1", port) == ""
    assert here.connection_refusal("127.0.0.1", port) == ""


def test_port_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full, so that the kernel answers no more."""
    monkeypatch.setattr(vir_here, "PORT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        try:
            assert here.connection_refusal(*address) == "no answer in 0.2 s"
        finally:
            for each in waiting:
                each.close()


def test_port_of_a_name_that_is_none() -> None:
    unknown = here.connection_refusal("no-such-name.invalid", 49152)
    assert unknown and "Errno" not in unknown
    assert here.connection_refusal("x" * 300, 49152)


@pytest.fixture
def qemu_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    conf = tmp_path / "qemu.conf"
    monkeypatch.setattr(here, "QEMU_CONF", conf)
    return conf


@pytest.mark.parametrize("setting", ["migrate_tls_x509_cert_dir", "default_tls_x509_cert_dir"])  # fmt: skip
def test_tls_files_where_qemu_conf_says(qemu_conf: Path, setting: str) -> None:
    folder = qemu_conf.parent
    qemu_conf.write_text(f'# {setting} = "/nowhere"\n {setting} = "{folder}"\n')
    assert here.tls_files() == TlsFiles(
        str(folder), ("ca-cert.pem", "client-cert.pem", "client-key.pem")
    )
    for name in ("ca-cert.pem", "client-key.pem"):
        (folder / name).touch()
    assert here.tls_files() == TlsFiles(str(folder), ("client-cert.pem",))


def test_migrations_own_folder_goes_before_the_default(qemu_conf: Path) -> None:
    qemu_conf.write_text(
        'default_tls_x509_cert_dir = "/one"\nmigrate_tls_x509_cert_dir = "/two"\n'
    )
    found = here.tls_files()
    assert isinstance(found, TlsFiles) and found.folder == "/two"


def test_tls_files_without_a_configuration(qemu_conf: Path) -> None:
    assert isinstance(here.tls_files(), Unknown)


def test_file_that_may_not_be_looked_at_counts_as_there(
    qemu_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(path: Path) -> None:
        raise PermissionError

    qemu_conf.write_text('migrate_tls_x509_cert_dir = "/etc/secret"\n')
    monkeypatch.setattr(Path, "stat", stat)
    assert here.tls_files() == TlsFiles("/etc/secret", ())
