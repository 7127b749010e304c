"""``domjobinfo --postcopy``: virsh's own rows, and below them what they do not say of post-copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Domain
from libvirt_postcopy.virsh.daemon import connect, find_domain
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.real import ask_virsh
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["rows", "run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> int:
    """Print both.

    :return: virsh's exit status; ours are printed only where it has printed its own.
    """
    with easily_interrupted():
        words = ["-q", *options.connection, *_command(given)]
        status, out, err = ask_virsh(words, patience_s=None)
        terminal.print(out.decode(errors="replace"))
        for line in err.decode(errors="replace").splitlines():
            terminal.say(line)
        if status == 0:
            terminal.print("".join(_row(*each) for each in _look(given, options)))
    sys.stdout.flush()
    return status


def _command(given: Mapping[str, Value]) -> Iterator[str]:
    yield "domjobinfo"
    for name, value in given.items():
        if name != "postcopy":
            yield f"--{name}" if value is True else f"--{name}={value}"


def _look(given: Mapping[str, Value], options: Globals) -> list[tuple[str, str]]:
    calls.silence_libvirt()
    ensure_event_loop()  # a connection opened before it has no keepalive
    connection = connect(options)
    dom = find_domain(connection, str(given["domain"]))
    return list(rows(dom, has_ended="completed" in given))


_PHASES = {
    Half.WHOLE: "no",
    Half.MIGRATING: "stopped for the switch, or waiting for its memory",
    Half.SPLIT: "active",
    Half.SPLIT_FAILED: "failed",
}


def rows(dom: Domain, *, has_ended: bool) -> Iterator[tuple[str, str]]:
    """What there is to say.

    :param has_ended: Ask QEMU for what it has counted; during a migration it is not reached.
    """
    half = calls.half(dom)
    yield "Post-copy", _PHASES.get(half, half.value)
    side = None
    with suppress(LibvirtError):
        side = calls.migration_side(dom)
    yield "Guest", _guest(half, side)
    stats = calls.read_stats(dom)
    if stats is not None and stats.postcopy_requests is not None:
        yield "Page requests", str(stats.postcopy_requests)
    if has_ended:
        is_over = half is Half.WHOLE and side is None
        yield "Blocktime", _blocktime(dom) if is_over else "not known yet"


def _guest(half: Half, side: Side | None) -> str:
    if half.is_split:
        where = "here, the rest of its memory on the source"
        if side is Side.SOURCE:
            where = "on the destination, the rest of its memory here"
        return f"split: it runs {where}; destroy neither half"
    if side is Side.DESTINATION:
        return "on the source"
    return "not here" if half in (Half.INACTIVE, Half.GONE) else "here"


def _blocktime(dom: Domain) -> str:
    """Of the destination, where the guest has arrived."""
    try:
        info = calls.query_migration(dom)
    except LibvirtError:
        return "not known: QEMU cannot be asked"
    blocked_ms = info.get("postcopy-blocktime")
    return "not counted" if blocked_ms is None else f"{blocked_ms} ms"


def _row(label: str, value: str) -> str:
    return f"{label + ':':<17s} {value}\n"
