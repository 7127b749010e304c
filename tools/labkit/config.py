"""The configuration files of a host."""

from __future__ import annotations

from pathlib import Path

from .layout import Node

__all__ = ["etc_files", "libvirtd_conf", "qemu_conf"]

#: The user that Debian's and Ubuntu's packages make for QEMU.
QEMU_USER = "libvirt-qemu"

LIBVIRTD = """\
host_uuid = "{uuid}"
log_outputs = "1:file:{log}"
# Only messages to and from QEMU's monitor (level 2, info), with milliseconds: from them
# the time between an event and the command that answers it can be read.
log_filters = "2:qemu.qemu_monitor"
"""

LIBVIRTD_SYSTEM = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
# No authentication, and the socket can be reached from outside: for root alone.
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
"""

# Nothing that would reach out of the host: no cgroups, no log daemon; and nothing that
# needs more of the machine than a container may have.
QEMU_SYSTEM = """\
user = "{user}"
group = "{user}"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
"""


def libvirtd_conf(node: Node) -> str:
    """``libvirtd.conf`` of a host or a session daemon."""
    if node.role == "session":
        return LIBVIRTD.format(uuid=node.uuid, log=node.log)
    log = "/var/log/libvirt/libvirtd.log"
    common = LIBVIRTD.format(uuid=node.uuid, log=log)
    return common + LIBVIRTD_SYSTEM.format(address=node.address)


def qemu_conf(node: Node) -> str:
    """``qemu.conf`` of a host or a session daemon."""
    stdio = 'stdio_handler = "file"\n'
    if node.role == "session":
        return stdio
    user = QEMU_USER if node.unprivileged else "root"
    return stdio + QEMU_SYSTEM.format(user=user)


def etc_files(node: Node, nsswitch: str) -> dict[str, str]:
    """Files below ``/etc`` that differ from the machine's.

    :param nsswitch: The machine's ``nsswitch.conf``.
    """
    files = {
        "hostname": f"{node.name}\n",
        # libvirt asks for its own name; without an answer from a file each call would
        # wait for a DNS server that cannot be reached.
        "hosts": "",
        "resolv.conf": "",
        "nsswitch.conf": _files_only(nsswitch),
    }
    if node.role == "host":
        files["machine-id"] = node.uuid.replace("-", "") + "\n"
        files["libvirt/libvirtd.conf"] = libvirtd_conf(node)
        files["libvirt/qemu.conf"] = qemu_conf(node)
    return files


def _files_only(nsswitch: str) -> str:
    rest = [line for line in nsswitch.splitlines() if not line.startswith("hosts:")]
    return "\n".join([*rest, "hosts: files", ""])


def session_environment(node: Node) -> dict[str, str]:
    """What makes a session daemon, and its clients, use folders of their own."""
    return {
        "XDG_RUNTIME_DIR": str(node.path / "run"),
        "XDG_CONFIG_HOME": str(node.path / "config"),
        "XDG_CACHE_HOME": str(node.path / "cache"),
        "XDG_DATA_HOME": str(node.path / "data"),
    }


def write_session_files(node: Node) -> None:
    """Lay out a session daemon's folders."""
    for folder in session_environment(node).values():
        Path(folder).mkdir(mode=0o700)
    node.log.parent.mkdir()
    conf = node.path / "config/libvirt"
    conf.mkdir()
    (conf / "libvirtd.conf").write_text(libvirtd_conf(node))
    (conf / "qemu.conf").write_text(qemu_conf(node))
