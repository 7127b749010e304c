"""``check``: says beforehand whether post-copy can work between two hosts, for one domain or for any."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.preflight import CHECKS, Report, examine
from libvirt_postcopy.preflight.document import to_markdown
from libvirt_postcopy.programs import FAILED, printable
from libvirt_postcopy.vir import calls, probe
from libvirt_postcopy.vir.events import ensure_event_loop

__all__ = ["options", "run"]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("src", nargs="?", metavar="SRC", help="URI of the source")
    parser.add_argument(
        "dest", nargs="?", metavar="DEST", help="URI of the destination"
    )
    parser.add_argument("domain", nargs="?", metavar="DOMAIN", help="name, id or UUID")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="start a paused domain of our own on the destination for a moment, and ask its QEMU; run on the"
        " source, also try a migration port there",
    )
    parser.add_argument(
        "--json", action="store_true", help="by schemas/check.schema.json"
    )
    parser.add_argument(
        "--list", action="store_true", help="print what is looked for, as Markdown"
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the report; the exit status is 1 if it has an error."""
    if args.list:
        out.write(to_markdown(CHECKS.values()))
        return 0
    if args.src is None:
        raise UsageError(
            "no source is named", cure="libvirt-postcopy check SRC [DEST [DOMAIN]]"
        )
    if args.probe and args.dest is None:
        raise UsageError(
            "--probe needs a destination", cure="name one after the source"
        )
    with _easily_interrupted():
        report = _examine(args)
    if args.json:
        out.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        out.writelines(f"{printable(line)}\n" for line in str(report).splitlines())
    return 0 if report.is_ok else FAILED


def _examine(args: argparse.Namespace) -> Report:
    calls.silence_libvirt()
    ensure_event_loop()  # a connection opened before it has no keepalive
    source = calls.open_connection(args.src, "source")
    try:
        dom = None if args.domain is None else probe.named_domain(source, args.domain)
        return examine(source, dom, args.dest, probe=args.probe, owns_source=True)
    finally:
        calls.close_connections([source])


@contextmanager
def _easily_interrupted() -> Iterator[None]:
    """Let Ctrl-C end the program while libvirt blocks in C; libvirt destroys the probe then."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
