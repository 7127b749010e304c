"""Durations and sizes as people type and read them."""

from __future__ import annotations

import re

from libvirt_postcopy.errors import UsageError

__all__ = ["DURATIONS", "MIB", "parse_duration", "format_duration", "format_bytes"]

MIB = 1 << 20

DURATIONS = "30, 30s, 5m, 2h or 300ms"
"""What :func:`parse_duration` reads, for people."""

_THOUSANDTHS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "": 1000}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|)", re.ASCII)
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_duration(text: str) -> float:
    """Read ``30``, ``30s``, ``5m``, ``2h``, ``300ms``.

    :return: Seconds.
    :raises UsageError: If it is anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text[:40]}' is not a duration", cure=f"write {DURATIONS}")
    return float(match[1]) * _THOUSANDTHS[match[2]] / 1000


def format_duration(seconds: float) -> str:
    """Write what :func:`parse_duration` reads back: the largest unit that divides it."""
    thousandths = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if thousandths and thousandths % size == 0:
            return f"{thousandths // size}{unit}"
    return f"{thousandths}ms" if thousandths else "0s"


def format_bytes(count: float) -> str:
    """Write a size as virsh does: three decimals, units of 1024."""
    step = 0
    while count >= 1024 and step < len(_BINARY) - 1:
        count /= 1024
        step += 1
    return f"{count:.3f} {_BINARY[step]}"
