"""``lab guest``: the test guest of ``tests/guest`` on a host of the lab.

The test guest is used through its own command line, ``python -m guest``, so that the
lab works where the tests are not installed. Its image and the socket on which it beats
are in the shared folder: there they have the same path on every host.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from .errors import LabError, ToolError
from .host import Host
from .lab import Lab
from .process import call

__all__ = ["options", "run"]

TESTS = Path(__file__).resolve().parents[2] / "tests"
DEFAULT_NAME = "guest"

#: Options handed on to the test guest, which has the defaults and checks the values.
PARAMS = {
    "memory": "MiB of memory",
    "working-set": "MiB that it keeps writing to",
    "rate": "MiB/s at which it does so, or max",
    "fill": "MiB of memory that it touches at all",
    "heartbeat": "beats per second on its serial port",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Declare ``lab guest start|stop|list|watch``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    start = verbs.add_parser("start", help="boot one on a host")
    start.add_argument("host", metavar="HOST")
    start.add_argument("--name", default=DEFAULT_NAME)
    start.add_argument("--machine", metavar="TYPE", help="default: pc")
    for name, text in PARAMS.items():
        start.add_argument(f"--{name}", help=text, metavar="N")
    stop = verbs.add_parser("stop", help="destroy one, wherever it is by default")
    stop.add_argument("host", nargs="?", metavar="HOST")
    stop.add_argument("--name", default=DEFAULT_NAME)
    verbs.add_parser("list", help="show the domains of all hosts")
    watch = verbs.add_parser("watch", help="print its beats and gaps once a second")
    watch.add_argument("--name", default=DEFAULT_NAME)


def run(lab: Lab, args: argparse.Namespace) -> int:
    """``lab guest …``."""
    if args.verb == "start":
        start(lab, lab.host(args.host), args)
    elif args.verb == "stop":
        stop(lab, args.host, args.name)
    elif args.verb == "list":
        for host in lab.hosts():
            for name in host.domains():
                print(f"{host.name}: {name}: {host.state(name)}")
    else:
        return watch(Path(_path(lab, args.name, "socket")))
    return 0


def start(lab: Lab, host: Host, args: argparse.Namespace) -> None:
    """Boot a test guest."""
    given = [
        word
        for name in PARAMS
        if (value := getattr(args, name.replace("-", "_"))) is not None
        for word in (f"--{name}", value)
    ]
    if host.name in _where(lab, args.name):
        raise LabError(f"host {host.name} has a domain {args.name} already")
    image, beat = _path(lab, args.name, "img"), _path(lab, args.name, "socket")
    _call(_guest("image", "--output", image, *given))
    where = ["--name", args.name, "--image", image, "--socket", beat]
    machine = ["--machine", args.machine] if args.machine else []
    xml = _call(_guest("xml", *where, *machine, *given))
    definition = Path(_path(lab, args.name, "xml"))
    definition.write_text(xml)
    _make_socket(Path(beat))
    host.virsh("create", str(definition))
    print(f"{host.name}: {args.name} started")


def stop(lab: Lab, host: str | None, name: str) -> None:
    """Destroy a test guest on one host, or wherever it is."""
    found = [host] if host else _where(lab, name)
    if not found:
        raise LabError(f"no host has a domain {name}")
    for each in found:
        lab.host(each).virsh("destroy", name)
        print(f"{each}: {name} destroyed")


def watch(beat: Path) -> int:
    """Print what a test guest's heartbeat says, until Ctrl-C."""
    try:
        argv = _guest("watch", str(beat))
        return subprocess.run(argv, env=_environment(), check=False).returncode
    finally:
        _make_socket(beat)  # the listener has taken its own away


def _make_socket(path: Path) -> None:
    """Have a socket there, even if nobody listens: libvirt sets its owner."""
    if not path.exists():
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(path))


def _where(lab: Lab, name: str) -> list[str]:
    return [host.name for host in lab.hosts() if name in host.domains()]


def _path(lab: Lab, name: str, kind: str) -> str:
    return str(lab.shared / f"{name}.{kind}")


def _guest(*words: str) -> list[str]:
    return [sys.executable, "-m", "guest", *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def _call(argv: list[str]) -> str:
    try:
        return call(argv, environment=_environment())
    except ToolError as error:
        raise LabError(f"test guest: {error.why}") from None
