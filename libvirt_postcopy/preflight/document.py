"""The documentation of all checks, made from the checks."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_postcopy.preflight.finding import Check

__all__ = ["to_markdown"]

_HEAD = """\
# Preflight: what is looked for

<!-- Made by: libvirt-postcopy check --list > docs/preflight.md -->

`libvirt-postcopy check SRC [DEST [DOMAIN]]`, `virsh-postcopy postcopy-check DOMAIN DESTURI` and
`libvirt_postcopy.check(dom, dest)` say beforehand whether a guest can move by post-copy.  An *error* is certain: libvirt
or QEMU will refuse, or the guest will be lost; the exit status is 1.  A *warning* may work and should be known before.  A
*note* is worth knowing.  What could not be looked at is a note that begins with "unknown" and says why.

Everything is only looked at.  The guest's QEMU is asked through libvirt's monitor passthrough, which libvirt notes in the
domain's log.  With `--probe` a domain of our own is started on the destination and destroyed again within about a second:
its vCPUs never run, it touches no memory, it has no disk and no network, and a name that begins with
`libvirt-postcopy-probe-`.  It is a domain like any other to libvirt's hooks and events.  libvirt destroys it by itself if
the client or its connection dies.  Where the check runs on the source, `--probe` also opens one TCP connection to the
destination's first migration port and closes it; not while a domain there may be taking in a guest, since a QEMU that
waits to be recovered dies of that.  Nothing else, and no `migrate`, connects to a migration port.
"""


def to_markdown(checks: Iterable[Check]) -> str:
    """Write a page with all checks, by the first part of their id."""
    parts = [_HEAD]
    area = ""
    for each in checks:
        if each.id.partition("/")[0] != area:
            area = each.id.partition("/")[0]
            parts.append(f"\n## {area}\n")
        parts.append(_entry(each))
    return "".join(parts)


def _entry(each: Check) -> str:
    side = f", {each.side}" if each.side else ""
    lines = [
        f"\n### {each.id}\n",
        f"At worst: {each.severity.value}{side}.\n",
        each.why,
    ]
    lines.append(f"\nCure: {each.cure}.\n")
    if each.fixed_in:
        lines.append(f"No longer matters with: {each.fixed_in}.\n")
    return "\n".join(lines)
