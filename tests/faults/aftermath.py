"""Looks up what became of a guest: by its heartbeat and its QEMUs, not by libvirt's word alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import libvirt
import libvirt_qemu

from faults.inventory import Inventory, left_behind, take_inventory
from guest import Collector, HeartbeatTimeout
from scenes.stage import Stage

__all__ = ["Found", "look", "place_of"]

_SETTLED_S = 30.0
_CLEAN_S = 10.0
_BEATS = 500
_SILENT_S = 5.0
_SILENCE_S = 0.1
_POLL_S = 0.2


@dataclass(frozen=True)
class Found:
    """Fields of `Outcome` that do not come from the client."""

    guest: str
    memory_ok: bool | None
    back_s: float | None
    left_behind: Sequence[str]
    ends: dict[str, str]


def look(
    stage: Stage, before: Inventory, healed: float, recovered_at: Sequence[float]
) -> Found:
    """Wait for what ends by itself, then look.

    :param healed: When the fault was over.
    :param recovered_at: When the two QEMUs had been put together again.
    """
    _settle(stage)
    guest = _guest(stage)
    memory_ok: bool | None = None
    left: Sequence[str] = ()
    if guest in _HOSTS:
        host = _HOSTS[guest]
        left = _what_is_left(stage, before, host)
        memory_ok = _is_memory_right(stage, host)
    if stage.collector.strays:
        guest = "two"
    back_s = _back_s(stage.collector, healed, recovered_at)
    return Found(guest, memory_ok, back_s, left, _ends(stage))


_GAVE_ALL = "migrated"  # libvirt's word

_HOSTS = {"source": "a", "destination": "b"}


def _settle(stage: Stage) -> None:
    """Wait while the guest has two QEMUs and is not known to be broken: one of them may be about to end."""
    end = time.monotonic() + _SETTLED_S
    while len(_alive(stage)) > 1 and time.monotonic() < end:
        if _status(stage, "a") == "postcopy-paused":
            return
        time.sleep(_POLL_S)


def _alive(stage: Stage) -> list[str]:
    return [host.name for host in stage.lab.hosts() if stage.qemus(host.name)]


def _status(stage: Stage, host: str) -> str | None:
    """What a host's QEMU says of its migration, empty if it knows of none; None where it cannot be asked."""
    domain = stage.find(host)
    if domain is None:
        return None
    try:
        answer = libvirt_qemu.qemuMonitorCommand(
            domain, '{"execute": "query-migrate"}', 0
        )
    except libvirt.libvirtError:  # it has ended this moment, or a job keeps its monitor
        return None
    return str(json.loads(answer)["return"].get("status", ""))


def _guest(stage: Stage) -> str:
    return place_of(
        {host: _status(stage, host) for host in _alive(stage)},
        is_heard=lambda: _is_heard(stage),
        has_moved=lambda: _has_moved(stage),
        has_all=_ends(stage).get("a") == _GAVE_ALL,
    )


def place_of(
    statuses: Mapping[str, str | None],
    *,
    is_heard: Callable[[], bool],
    has_moved: Callable[[], bool],
    has_all: bool = False,
) -> str:
    """Say where a guest is, as `Outcome.guest` has it.

    :param statuses: What its QEMUs say of their migration, by host; None where they cannot be asked.
    :param is_heard: Whether its heart beats, which takes a while to tell.
    :param has_moved: Whether the beats come from a later QEMU than the first.
    :param has_all: Whether the source's QEMU ended as it does when all of its memory has arrived.  A guest whose last
        pages are missing may go on for a while, as long as it does not need them.
    """
    if not statuses:
        return "lost"
    if len(statuses) > 1 and _is_half(statuses.get("a")):
        return "split"
    is_whole = has_all or "a" in statuses or not all(map(_is_half, statuses.values()))
    if is_whole and is_heard():
        # Of two, one is left behind: the destination's if the source is whole.
        return "source" if "a" in statuses and not has_moved() else "destination"
    # A cancelled post-copy never ends in QEMU 7.2, and its source never goes on.
    is_rest = any(_is_half(each) or each == "cancelling" for each in statuses.values())
    return "lost" if is_rest else "stopped"


def _is_half(status: str | None) -> bool:
    """A monitor that does not answer vouches for nothing; from ``postcopy-device`` a source can go back."""
    if status == "postcopy-device":
        return False
    return status is None or status.startswith("postcopy")


def _has_moved(stage: Stage) -> bool:
    """The beats come from a later QEMU than the first."""
    return bool(stage.collector.running)


def _is_heard(stage: Stage) -> bool:
    try:
        stage.collector.wait_for_beats(_BEATS, timeout=_SILENT_S)
    except HeartbeatTimeout:
        return False
    return True


def _what_is_left(stage: Stage, before: Inventory, host: str) -> Sequence[str]:
    """What is left once there has been time to put it away."""
    end = time.monotonic() + _CLEAN_S
    while left := left_behind(before, take_inventory(stage, host), host):
        if time.monotonic() > end:
            break
        time.sleep(_POLL_S)
    return left


def _is_memory_right(stage: Stage, host: str) -> bool | None:
    """None where libvirt does not let us stop it to compare."""
    try:
        return stage.verify(host).ok
    except libvirt.libvirtError:
        return None


def _ends(stage: Stage) -> dict[str, str]:
    return {
        host.name: found[-1]
        for host in stage.lab.hosts()
        if not stage.qemus(host.name)
        and (log := host.qemu_log(stage.name)).exists()
        and (found := _REASON.findall(log.read_text(errors="replace")))
    }


_REASON = re.compile(r"shutting down, reason=(\w+)")


def _back_s(
    collector: Collector, healed: float, recovered_at: Sequence[float]
) -> float | None:
    """How long after the end of a fault the guest showed a sign of life.

    Where a recovery followed, the first one after it: until then a guest may run on for a moment, on pages that it
    has.  Else the first one after the silence that was going on when the fault was over.
    """
    later = [when for when in recovered_at if when >= healed]
    moment = later[-1] if later else healed
    gaps = collector.longest_gaps(1, since=moment, until=moment)
    if not gaps or gaps[0].is_open:
        return None
    if not later and gaps[0].length_s < _SILENCE_S:
        return None
    return gaps[0].end - healed
