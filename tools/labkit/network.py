"""The hosts' network: one bridge in a network namespace of its own.

Namespaces are found by their holders' pids, never by names below ``/run/netns``, so
that all of this works from within ``lab exec client`` too. Nothing is ever added to
the root network namespace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from .errors import LabError
from .process import Process, call

__all__ = [
    "address",
    "break_migrations",
    "create_switch",
    "limit",
    "parse_rate",
    "plug",
    "rate_of",
    "set_port",
    "unlimit",
    "unplug",
]

#: TEST-NET-1 (RFC 5737): no real network has these addresses.
NETWORK = "192.0.2"
PREFIX = 24
CLIENT_ADDRESS = f"{NETWORK}.2"

#: What libvirt takes for migrations (``migration_port_min``, ``migration_port_max``).
PORTS = (49152, 49215)
#: The same as a value and a mask for a classifier: 64 ports, well aligned.
PORT_MASK = "49152 0xffc0"

UNITS = {
    "bit": 1 / 8,
    "kbit": 1e3 / 8,
    "mbit": 1e6 / 8,
    "gbit": 1e9 / 8,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
}


def address(index: int) -> str:
    """The address of the host with this number, from 0."""
    return f"{NETWORK}.{11 + index}"


def _mac(ip: str) -> str:
    """The MAC address that goes with an IP address.

    Always the same: others remember it for half a minute, and a host that is removed
    and added again would be deaf to them for as long.
    """
    return "02:00:" + ":".join(f"{int(part):02x}" for part in ip.split("."))


def _inside(holder: Process, *argv: str) -> list[str]:
    return ["nsenter", f"--target={holder.pid}", "--net", "--", *argv]


def _ip(holder: Process, lines: Iterable[str]) -> None:
    call(_inside(holder, "ip", "-batch", "-"), text="\n".join([*lines, ""]))


def _tc(holder: Process, lines: Iterable[str]) -> None:
    call(_inside(holder, "tc", "-batch", "-"), text="\n".join([*lines, ""]))


def create_switch(switch: Process) -> None:
    """Make the bridge."""
    _ip(switch, ["link add name br0 type bridge", "link set dev br0 up"])


def plug(switch: Process, members: Sequence[tuple[str, str, Process]]) -> None:
    """Connect members to the bridge.

    :param members: Of each its name, which its port gets too, its address and holder.
    """
    ports: list[str] = []
    for name, ip, holder in members:
        peer = f"peer name eth0 address {_mac(ip)} netns {holder.pid}"
        ports.append(f"link add name {name} type veth {peer}")
        ports.append(f"link set dev {name} master br0 up")
    _ip(switch, ports)
    for _, ip, holder in members:
        eth0 = [f"address add {ip}/{PREFIX} dev eth0", "link set dev eth0 up"]
        _ip(holder, ["link set dev lo up", *eth0])


def unplug(switch: Process, name: str) -> None:
    """Remove a member's port.

    The kernel does the same some time after a member's last process has ended; a new
    member of the same name cannot wait for that.
    """
    if name in ports(switch):
        _ip(switch, [f"link del dev {name}"])


def ports(switch: Process) -> dict[str, bool]:
    """The members' ports and whether each is up."""
    shown = call(_inside(switch, "ip", "-json", "link", "show", "master", "br0"))
    return {port["ifname"]: "UP" in port["flags"] for port in json.loads(shown)}


def set_port(switch: Process, name: str, *, up: bool) -> None:
    """Plug a member's cable in or pull it out."""
    _ip(switch, [f"link set dev {name} {'up' if up else 'down'}"])


def break_migrations(holder: Process) -> int:
    """Kill a host's migration connections; both of its ends see a reset.

    :returns: How many were killed.
    """
    low, high = PORTS
    ours = " or ".join(f"( {end} >= :{low} and {end} <= :{high} )" for end in _ENDS)
    # ss -K shows what it has killed. A listening socket is none of its business.
    shown = call(_inside(holder, "ss", "-H", "-t", "-n", "-K", ours))
    return len(shown.splitlines())


_ENDS = ("sport", "dport")


def parse_rate(text: str) -> int:
    """Read a rate such as ``100mbit``, ``32MiB`` or ``32MiB/s``; bytes per second."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)(?:/s)?", text.strip().lower())
    if not match or match[2] not in UNITS:
        raise LabError(f"rate {text!r}: give it like 100mbit, 1gbit, 32MiB or 32MiB/s")
    rate = round(float(match[1]) * UNITS[match[2]])
    if rate < 1000:
        raise LabError(f"rate {text!r}: less than 1000 bytes/s is no link")
    return rate


def limit(holder: Process, rate: int) -> None:
    """Let a host send no more than so many bytes per second of migrations.

    Only the migration ports are shaped. Were libvirt's own connections to wait in the
    same queue, a busy migration would delay each call by all that is ahead of it,
    which on a real network goes over another link or class.
    """
    # veth takes segments of up to 64 KiB; two fit into the bucket. The queue is short,
    # 50 ms, so that page requests see the latency of a link and not of a buffer.
    burst = max(128 * 1024, rate // 100)
    queue = max(256 * 1024, rate // 20)
    unlimit(holder)
    _tc(holder, _shape("eth0", rate, burst, queue))


def _shape(device: str, rate: int, burst: int, queue: int) -> list[str]:
    """Shape what goes out of a device to or from the migration ports; all in bytes."""
    match = "u32 match ip protocol 6 0xff match ip"
    return [
        f"qdisc replace dev {device} root handle 1: htb default 0",
        (
            f"class replace dev {device} parent 1: classid 1:1 htb rate {rate}bps"
            f" burst {burst} cburst {burst} quantum 65536"
        ),
        f"qdisc replace dev {device} parent 1:1 handle 10: bfifo limit {queue}",
        *(
            f"filter add dev {device} parent 1: protocol ip prio 1 {match} {end}"
            f" {PORT_MASK} flowid 1:1"
            for end in _ENDS
        ),
    ]


def unlimit(holder: Process) -> None:
    """Let a host send as fast as it can."""
    if rate_of(holder) is not None:
        _tc(holder, ["qdisc del dev eth0 root"])


def swallow(switch: Process, name: str) -> None:
    """Drop what comes to a member of migrations, and let everything else through; nobody is told.

    On its way, by the switch: of what a sender's own queue drops its kernel knows, and Linux 6.18 gives such a
    connection up after a second instead of a quarter of an hour, once it has been up for as long.
    """
    unswallow(switch, name)
    _tc(switch, _shape(name, 1 << 30, 128 * 1024, _SMALLER_THAN_A_PACKET))


_SMALLER_THAN_A_PACKET = 1


def unswallow(switch: Process, name: str) -> None:
    """Let a member's migrations through again."""
    if call(_inside(switch, "tc", "class", "show", "dev", name)):
        _tc(switch, [f"qdisc del dev {name} root"])


KERNELS_OWN = 15
"""The kernel's default for ``net.ipv4.tcp_retries2``: a quarter of an hour."""


def give_up_after(holder: Process, retries: int) -> None:
    """Set after how many unanswered retransmissions a host's TCP gives a connection up; see `KERNELS_OWN`."""
    call(_inside(holder, "sysctl", "-q", "-w", f"net.ipv4.tcp_retries2={retries}"))


def rate_of(holder: Process) -> int | None:
    """The limit of a host in bytes per second, to four digits; None without one."""
    # iproute2 6.1 has no JSON for this.
    shown = call(_inside(holder, "tc", "class", "show", "dev", "eth0"))
    found = re.search(r"class htb 1:1 .*?rate (\d+)([KMG]?bit)", shown)
    return round(int(found[1]) * UNITS[found[2].lower()]) if found else None
