"""What each verb of ``lab`` does: one function, which returns the exit status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

from .errors import LabError
from .host import VIRSH, Host
from .lab import Lab

__all__ = [
    "up",
    "down",
    "status",
    "execute",
    "virsh",
    "uri",
    "cut",
    "uncut",
    "break_",
    "limit",
    "unlimit",
    "kill_daemon",
    "start_daemon",
    "add_host",
    "remove_host",
]

#: Exit status of `status` when no lab is up, as of ``systemctl status``.
NOT_UP = 3


def up(lab: Lab, args: argparse.Namespace) -> int:
    began = time.monotonic()
    fresh = lab.up(
        args.hosts.split(","),
        releases=args.release,
        unprivileged=args.unprivileged,
        session=args.session,
    )
    names = " ".join(host.name for host in lab.hosts())
    if fresh:
        print(f"up in {time.monotonic() - began:.1f} s: {names}")
    else:
        print(f"up already: {names}")
    return 0


def down(lab: Lab, args: argparse.Namespace) -> int:
    print("down" if lab.down() else "down already")
    return 0


def status(lab: Lab, args: argparse.Namespace) -> int:
    if not lab.folder.ready.exists():
        print(json.dumps(None) if args.json else f"down ({lab.folder.path})")
        return NOT_UP
    rows = [lab.describe(host) for host in lab.hosts()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"up ({lab.folder.path})")
    for row in rows:
        print(_line(row))
    return 0


def _line(row: dict[str, object]) -> str:
    words = [
        f"{name} {row[name]}" for name in ("release", "libvirtd", "link") if name in row
    ]
    if row["address"]:
        words.insert(0, str(row["address"]))
    rate = row.get("limit_bytes_s")
    if isinstance(rate, int):
        words.append(f"limit {rate / 2**20:.1f} MiB/s")
    domains = row["domains"]
    if isinstance(domains, list) and domains:
        words.append(f"domains {' '.join(domains)}")
    return f"{row['host']}: {', '.join(words)}"


def execute(lab: Lab, args: argparse.Namespace) -> int:
    _become(lab.host(args.host), args.command or ["bash"])


def virsh(lab: Lab, args: argparse.Namespace) -> int:
    host = lab.host(args.host)
    # As the client, which knows the names in the URIs that `migrate` is given.
    there = host if lab.is_session() else lab.client
    _become(there, [VIRSH, "-c", host.uri, *args.command])


def _become(host: Host, argv: Sequence[str]) -> NoReturn:
    command = host.command(argv)
    # The command on the host gets Ctrl-C from the terminal itself; see Host.command.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Python ignores it, and the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)


def uri(lab: Lab, args: argparse.Namespace) -> int:
    host = lab.host(args.host)
    print(host.tcp_uri if args.tcp else host.uri)
    return 0


def cut(lab: Lab, args: argparse.Namespace) -> int:
    for name in args.host or [lab.hosts()[-1].name]:
        lab.cut(name)
        print(f"{name}: cut off")
    return 0


def uncut(lab: Lab, args: argparse.Namespace) -> int:
    for name in args.host or [host.name for host in lab.hosts()]:
        lab.uncut(name)
        print(f"{name}: connected")
    return 0


def break_(lab: Lab, args: argparse.Namespace) -> int:
    killed = lab.break_migrations(args.host)
    if not killed:
        raise LabError("no migration connection is there to break")
    print(f"ends of migration connections killed: {killed}")
    return 0


def limit(lab: Lab, args: argparse.Namespace) -> int:
    lab.limit(args.rate, args.host)
    return 0


def unlimit(lab: Lab, args: argparse.Namespace) -> int:
    lab.unlimit(args.host)
    return 0


def kill_daemon(lab: Lab, args: argparse.Namespace) -> int:
    host = lab.host(args.host)
    if args.stay_down:
        host.kill_daemon(None)
        print(f"{host.name}: libvirtd killed; `lab start-daemon {host.name}` starts it")
        return 0
    host.kill_daemon(args.restart_after)
    if args.restart_after:
        print(f"{host.name}: libvirtd killed; starts in {args.restart_after:g} s")
        return 0
    host.wait_ready()
    print(f"{host.name}: libvirtd killed and started")
    return 0


def start_daemon(lab: Lab, args: argparse.Namespace) -> int:
    host = lab.host(args.host)
    host.start_daemon()
    host.wait_ready()
    return 0


def add_host(lab: Lab, args: argparse.Namespace) -> int:
    lab.add_host(args.host, release=args.release, unprivileged=args.unprivileged)
    return 0


def remove_host(lab: Lab, args: argparse.Namespace) -> int:
    lab.remove_host(args.host)
    return 0
