"""``migrations``: all migrations of a host, who drives them, and what to type next."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TextIO

from libvirt_postcopy.errors import LibvirtError, StateError
from libvirt_postcopy.events import Half, Place, Side
from libvirt_postcopy.journal import safe_uri
from libvirt_postcopy.phases import Phase, Status, next_phase
from libvirt_postcopy.programs import printable
from libvirt_postcopy.takeover import left_behind
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["Row", "look", "options", "run"]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("uri", metavar="URI", help="of the host to be looked at")
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the table; a host without migrations is a good answer too."""
    calls.silence_libvirt()
    ensure_event_loop()  # a connection opened before it has no keepalive
    connection = calls.open_connection(args.uri)
    try:
        rows = look(connection, safe_uri(args.uri))
    finally:
        calls.close_connections([connection])
    if args.json:
        out.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        out.writelines(f"{printable(line)}\n" for line in _table(rows, args.uri))
    return 0


@dataclass(frozen=True)
class Row:
    """One migration, as far as one host tells.

    :ivar side: ``outgoing`` or ``incoming``.
    :ivar guest: Where the guest is: ``source`` or ``split``.
    :ivar destination: By the journal of the client that started it; empty where there is none.
    :ivar driven_by: The process of ours that drives it; 0 for none.
    :ivar next: What to type; empty where nothing is to be done.
    """

    domain: str
    uuid: str
    side: str
    phase: str
    guest: str
    destination: str = ""
    driven_by: int = 0
    next: str = ""


def look(connection: Connection, uri: str) -> list[Row]:
    """Look for all migrations of a host.

    :param uri: Of the host, for commands.
    :raises LibvirtError: If its daemon does not answer.
    """
    with calls.refusals():
        domains = connection.listAllDomains()
    found = (_row(dom, uri) for dom in domains)
    return sorted((row for row in found if row is not None), key=lambda row: row.domain)


def _row(dom: Domain, uri: str) -> Row | None:
    """None for a domain that is part of no migration, or that is gone by now."""
    half = calls.half(dom)
    try:
        side = calls.migration_side(dom)
        name = dom.name()
    except LibvirtError:
        return None
    if side is None:
        return _without_job(name, dom, uri)
    if side is Side.DESTINATION:
        return _incoming(name, dom.UUIDString(), half)
    return _outgoing(name, dom, half, uri)


def _incoming(name: str, uuid: str, half: Half) -> Row:
    """A destination cannot tell where its guest comes from, nor QEMU's own status."""
    guest = Place.SPLIT if half.is_split else Place.SOURCE
    return Row(name, uuid, "incoming", _PHASES[half], guest.value, next=_LOOK_THERE)


_LOOK_THERE = "look at the source"
_PHASES: Mapping[Half, str] = {
    **dict.fromkeys(Half, Phase.PREPARING.value),
    Half.WHOLE: Phase.PRECOPY.value,
    Half.MIGRATING: Phase.PRECOPY.value,
    Half.SPLIT: Phase.POSTCOPY.value,
    Half.SPLIT_FAILED: "post-copy failed, says libvirt",
}


def _outgoing(name: str, dom: Domain, half: Half, uri: str) -> Row:
    phase = _split_phase(dom, half) if half.is_split else _precopy_phase(dom)
    left = left_behind(dom)
    destination = (left.entry and left.entry.facts.destination) or ""
    return Row(
        domain=name,
        uuid=dom.UUIDString(),
        side="outgoing",
        phase=phase,
        guest=(Place.SPLIT if half.is_split else Place.SOURCE).value,
        destination=destination,
        driven_by=left.driver,
        next="" if left.driver else _command(phase, name, uri, destination),
    )


def _without_job(name: str, dom: Domain, uri: str) -> Row | None:
    """One of the driver ``qemu``: libvirt tells nothing of it, so its journal and QEMU are asked."""
    left = left_behind(dom)
    if left.entry is None or left.entry.facts.driver != "qemu":
        return None
    try:
        status = str(calls.query_migration(dom).get("status", Status.NONE.value))
        phase = next_phase(Side.SOURCE, Phase.PREPARING, status)
    except (LibvirtError, StateError):
        return None
    if phase in _NO_MORE or status == Status.NONE:
        return None
    is_away = phase.is_split or phase is Phase.COMPLETED  # nobody has finished it
    command = shlex.join(["virsh-postcopy", "-c", uri, "postcopy-attach", name])
    return Row(
        domain=name,
        uuid=dom.UUIDString(),
        side="outgoing",
        phase=phase.value,
        guest=(Place.SPLIT if is_away else Place.SOURCE).value,
        destination=left.entry.facts.destination or "",
        driven_by=left.driver,
        next="" if left.driver else command,
    )


_NO_MORE = (Phase.GOING_BACK, Phase.CANCELLED, Phase.FAILED)


def _precopy_phase(dom: Domain) -> str:
    stats = calls.read_stats(dom)
    is_moving = stats is not None and bool(stats.memory_total)
    return Phase.PRECOPY.value if is_moving else Phase.PREPARING.value


def _split_phase(dom: Domain, half: Half) -> str:
    """By QEMU's own status: libvirt says "failed" of a lost control connection too."""
    try:
        status = calls.query_migration(dom).get("status")
    except LibvirtError:
        return _PHASES[half]
    if status not in set(Status):
        return _PHASES[half]
    with suppress(StateError):  # it has ended since
        return str(next_phase(Side.SOURCE, Phase.POSTCOPY, str(status)).value)
    return _PHASES[half]


def _command(phase: str, name: str, uri: str, destination: str) -> str:
    is_broken = phase in (Phase.BROKEN.value, _PHASES[Half.SPLIT_FAILED])
    verb = "postcopy-recover" if is_broken else "postcopy-attach"
    words = ["virsh-postcopy", "-c", uri, verb, name]
    # Named where nothing else tells, and needed to recover.
    return shlex.join(words) + ("" if destination else " DESTURI")


_HEADS = ("DOMAIN", "SIDE", "PHASE", "GUEST", "DESTINATION", "DRIVEN BY", "NEXT")


def _table(rows: Sequence[Row], uri: str) -> Iterator[str]:
    if not rows:
        yield f"no migration on {uri}"
        return
    cells = [_HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths))
        yield "  ".join(padded).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.domain,
        row.side,
        row.phase,
        "on the source" if row.guest == Place.SOURCE else row.guest,
        row.destination or "-",
        f"process {row.driven_by}" if row.driven_by else "-",
        row.next or "-",
    )
