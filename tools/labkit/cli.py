"""The command line of ``lab``; what its verbs do is in `verbs`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from . import guest, verbs
from .errors import LabError
from .lab import Lab
from .pipes import end_quietly
from .plan import DEFAULT_HOSTS

__all__ = ["main"]

EPILOG = """\
The state folder is /run/libvirt-postcopy-lab, or LIBVIRT_POSTCOPY_LAB_DIR; labs in
different folders do not see each other. LAB/shared has the same path on all hosts.

  lab up && lab status
  lab virsh a create guest.xml
  lab exec client virsh -c qemu+tcp://a/system migrate --live g qemu+tcp://b/system
  lab down
"""


Verb = Callable[[Lab, argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="lab",
        description="Two or more libvirt hosts on one machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choice = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Verb, text: str) -> argparse.ArgumentParser:
        added = choice.add_parser(
            name, help=text, description=text[:1].upper() + text[1:] + "."
        )
        added.set_defaults(run=run)
        return added

    _up_options(verb("up", verbs.up, "start the hosts"))
    verb("down", verbs.down, "end everything and leave nothing")
    each = verb(
        "status", verbs.status, "show the hosts; exit status 3 if the lab is down"
    )
    each.add_argument("--json", action="store_true")
    for name, run, text in (
        ("exec", verbs.execute, "run a command on a host or the client"),
        ("virsh", verbs.virsh, "run virsh on the client, connected to a host"),
    ):
        each = verb(name, run, text)
        each.add_argument("host", metavar="HOST")
        each.add_argument("command", nargs=argparse.REMAINDER, metavar="…")
    each = verb("uri", verbs.uri, "print a host's URI, which works from outside too")
    each.add_argument("host", metavar="HOST")
    each.add_argument("--tcp", action="store_true", help="for the client and the hosts")
    guest.options(verb("guest", guest.run, "start, stop and list test guests"))
    _network_verbs(verb)
    _daemon_verbs(verb)
    return top


def _up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--hosts", default=",".join(DEFAULT_HOSTS), metavar="A,B", help="their names"
    )
    up.add_argument(
        "--release",
        action="append",
        default=[],
        metavar="R",
        help="of QEMU and libvirt, see tools/qemu-versions; once for all hosts, or for"
        " each in turn; default: what the machine has installed",
    )
    up.add_argument(
        "--unprivileged",
        action="append",
        default=[],
        metavar="HOST",
        help="run QEMU there as an ordinary user: the kernel refuses it post-copy",
    )
    up.add_argument(
        "--session", action="store_true", help="session daemons, without root"
    )


def _network_verbs(verb: Callable[[str, Verb, str], argparse.ArgumentParser]) -> None:
    for name, run, text in (
        ("cut", verbs.cut, "pull a host's network cable; default: the last host's"),
        ("uncut", verbs.uncut, "plug it in again; default: all hosts'"),
        ("break", verbs.break_, "kill the migration connections of all hosts, or some"),
        ("unlimit", verbs.unlimit, "take the limit off"),
    ):
        verb(name, run, text).add_argument("host", nargs="*", metavar="HOST")
    each = verb(
        "limit", verbs.limit, "limit what each host, or some, can send of migrations"
    )
    each.add_argument("rate", metavar="RATE", help="100mbit, 32MiB, …")
    each.add_argument("host", nargs="*", metavar="HOST")


def _daemon_verbs(verb: Callable[[str, Verb, str], argparse.ArgumentParser]) -> None:
    each = verb(
        "kill-daemon", verbs.kill_daemon, "kill -9 a host's libvirtd; guests live on"
    )
    each.add_argument("host", metavar="HOST")
    how = each.add_mutually_exclusive_group()
    how.add_argument(
        "--restart-after", type=float, default=0.0, metavar="SECONDS", help="default: 0"
    )
    how.add_argument("--stay-down", action="store_true")
    each = verb(
        "start-daemon", verbs.start_daemon, "start a host's libvirtd that is down"
    )
    each.add_argument("host", metavar="HOST")
    each = verb("add-host", verbs.add_host, "start one more host")
    each.add_argument("host", metavar="HOST")
    each.add_argument("--release", metavar="R")
    each.add_argument("--unprivileged", action="store_true")
    each = verb("remove-host", verbs.remove_host, "end one host")
    each.add_argument("host", metavar="HOST")


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; ``--`` may stand before the command of `exec` and `virsh`.

    :returns: 0 done; 1 failed, with a line that says why; 3 `status` of no lab; 141
        if nobody reads what it prints.
    """
    return end_quietly(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if getattr(args, "command", None) and args.command[0] == "--":
        del args.command[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    run: Verb = args.run
    try:
        return run(Lab(), args)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
