"""What is known of releases: what they lack, and what is broken in them.

Distributions backport, so a number is taken as a reason to warn; what libvirt and QEMU can be asked for is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.features import version_text
from libvirt_postcopy.preflight.facts import NOT_ASKED, Facts, Host, Unknown, known
from libvirt_postcopy.preflight.finding import Seen, Severity, check

__all__: list[str] = []

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_LIBVIRT_POSTCOPY, _QEMU_POSTCOPY = 1_003_003, 2_006_000
_QEMU_RENAMED_POSTCOPY = 2_005_000
_LIBVIRT_RECOVERY, _QEMU_RECOVERY = 8_005_000, 3_000_000
_LIBVIRT_PREEMPT, _QEMU_PREEMPT = 10_000_000, 7_001_000
_PREEMPT = "postcopy-preempt"
_RESUME_BROKEN, _RESUME_FIXED = 11_002_000, 11_004_000  # libvirt
_GOES_BACK = 10_002_000  # QEMU, until the destination has the state of the devices


def _hosts(facts: Facts) -> list[tuple[str, Host]]:
    hosts = [("source", facts.source)]
    if facts.destination is not None:
        hosts.append(("destination", facts.destination))
    return hosts


def _older(facts: Facts, libvirt: int, qemu: int) -> Iterator[tuple[str, str]]:
    """Each side that has an older libvirt or QEMU, and which it has."""
    for side, host in _hosts(facts):
        for name, is_, first in (
            ("libvirt", host.libvirt, libvirt),
            ("QEMU", host.qemu, qemu),
        ):
            if not isinstance(is_, Unknown) and is_ < first:
                yield side, f"{name} is {version_text(is_)}"
                break
    for _, host in _hosts(facts):
        known(host.libvirt)
        known(host.qemu)


@check(
    "versions/postcopy",
    severity=ERROR,
    side="",
    cure="upgrade it",
    fixed_in="libvirt 1.3.3, QEMU 2.6",
)
def postcopy(facts: Facts) -> Iterator[Seen]:
    """Post-copy came with libvirt 1.3.3 and QEMU 2.6; older ones cannot do it on either side.  QEMU 2.5 has it by another
    name, which only the driver qemu knows, and that needs nothing of libvirt's."""
    oldest = (
        (0, _QEMU_RENAMED_POSTCOPY)
        if facts.request.by_qemu
        else (_LIBVIRT_POSTCOPY, _QEMU_POSTCOPY)
    )
    for side, what in _older(facts, *oldest):
        yield Seen(f"{what}, which has no post-copy", side=side)


@check(
    "versions/recovery",
    severity=WARNING,
    side="",
    cure="upgrade it, or migrate over a link that you trust",
    fixed_in="libvirt 8.5, QEMU 3.0",
)
def recovery(facts: Facts) -> Iterator[Seen]:
    """If the link breaks while the guest is split, a migration must be resumed; older releases cannot do that, and the
    guest is lost."""
    libvirt = 0 if facts.request.by_qemu else _LIBVIRT_RECOVERY
    for side, what in _older(facts, libvirt, _QEMU_RECOVERY):
        yield Seen(f"{what}: if the link breaks, no recovery", side=side)


@check(
    "versions/resume-crash",
    severity=WARNING,
    side="destination",
    cure="upgrade libvirt there, or give its QEMU a second monitor (--postcopy-monitor-dir), or trust the link",
    fixed_in="libvirt 11.4",
)
def resume_crash(facts: Facts) -> Iterator[Seen]:
    """The daemon of libvirt 11.2.0 to 11.3.0 crashes on the destination when a broken migration is resumed.  The guest and
    both QEMUs survive that, but libvirt brings them together no more.  A second monitor at the destination's QEMU goes
    round it."""
    if facts.request.by_qemu or facts.request.has_second_monitor:
        return
    libvirt = known(facts.the_destination.libvirt)
    if _RESUME_BROKEN <= libvirt < _RESUME_FIXED:
        yield Seen(
            f"libvirt is {version_text(libvirt)}: if the link breaks, no recovery"
        )


@check(
    "versions/lost-window",
    severity=NOTE,
    side="",
    cure="let the daemons talk to each other (--p2p), or upgrade to QEMU 10.2: either makes the moment shorter",
)
def lost_window(facts: Facts) -> Iterator[Seen]:
    """Between the switch and the start on the destination there is a moment, some milliseconds, in which the guest is lost
    if either daemon or the connection between them fails, or the client that manages it without --p2p.  QEMU from 10.2
    on can go back until the destination has the state of the devices, a millisecond or two; what fails after that and
    before libvirt has started the guest there loses it with every release (seen with libvirt 12.8 and QEMU 11.1).
    """
    for side, host in _hosts(facts):
        qemu = known(host.qemu)
        if qemu < _GOES_BACK:
            yield Seen(
                f"QEMU is {version_text(qemu)} and cannot go back: a failure just at the switch loses the guest",
                side=side,
            )
            return


@check(
    "versions/preempt",
    severity=NOTE,
    side="",
    cure="upgrade both hosts",
    fixed_in="libvirt 10.0, QEMU 7.1",
)
def preempt(facts: Facts) -> Iterator[Seen]:
    """With postcopy-preempt a page that the guest waits for overtakes the others; without it it queues behind what is
    being sent, and each fault lasts longer."""
    for side, what in _without_preempt(facts):
        yield Seen(f"{what}: pages that the guest waits for do not overtake", side=side)
        return


def _without_preempt(facts: Facts) -> Iterator[tuple[str, str]]:
    """QEMU's own lists first, then the numbers."""
    lists = (
        ("source", NOT_ASKED if facts.domain is None else facts.domain.capabilities),
        (
            "destination",
            (
                facts.probe
                if isinstance(facts.probe, Unknown)
                else facts.probe.capabilities
            ),
        ),
    )
    for side, capabilities in lists:
        if not isinstance(capabilities, Unknown) and _PREEMPT not in capabilities:
            yield side, f"QEMU has no {_PREEMPT}"
    yield from _older(facts, _LIBVIRT_PREEMPT, _QEMU_PREEMPT)
