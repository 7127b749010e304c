"""Prove from outside that a stopped guest's memory is right, every page of it.

The status page says which sweep is under way and how far it is; from that follows
what each page must hold, to the byte. What differs is named by its kind. The status
page itself could be old together with all the rest: therefore its tick count must
also agree with the last beat that was heard, and no tick may have been heard twice.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Optional, Protocol, Union

from .damage import BadPage, Damage, judge, stores_done
from .image import GuestParams
from .pattern import (
    PAGE_BYTES,
    PATTERN_START,
    STATUS_ADDRESS,
    STORES,
    Status,
    page_bytes,
)
from .readers import PeekedDomain, Reader, peek_reader

__all__ = [
    "verify_domain",
    "verify_memory",
    "last_heard",
    "read_status",
    "MemoryReport",
    "SuspendableDomain",
    "Listener",
]

_CHUNK_PAGES = 256
_FIRST_NUMBER = PATTERN_START // PAGE_BYTES
_TICKS_MASK = 0xFFFFFFFF
_STATE_RUNNING = 1  # VIR_DOMAIN_RUNNING
_SETTLE_S = 5.0
_MESSAGE_S = 30.0
# Beats are lost once in many runs, and on a loaded machine perhaps twice in a row.
_MOST_STOPS = 4


@dataclass(frozen=True)
class MemoryReport:
    """The verdict; ``str()`` of it says what is wrong."""

    problems: tuple[str, ...]  #: apart from pages: the status page, the last beat
    damage: Mapping[Damage, int]
    first_bad: Optional[BadPage]
    pages_checked: int
    edges: int  #: changes of sequence within the working set: 0 or 1
    status: Optional[Status]
    #: How far the status page is ahead of the last beat heard, if that proves nothing
    #: about the memory: beats were lost on their way.
    lost_beats: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems and not self.damage

    @property
    def bad_pages(self) -> int:
        return sum(self.damage.values())

    @property
    def stale(self) -> int:
        return self.damage.get(Damage.STALE, 0)

    @property
    def torn(self) -> int:
        return self.damage.get(Damage.TORN, 0)

    @property
    def sweep(self) -> int:
        """The sweep under way, 0 if the fill has not ended."""
        return self.status.sweep if self.status else 0

    def __str__(self) -> str:
        if self.ok:
            return f"{self.pages_checked} pages compared, every one right"
        kinds = [f"{count} {kind.name.lower()}" for kind, count in self.damage.items()]
        parts = list(self.problems)
        if kinds:
            parts.append(f"of {self.pages_checked} pages: " + ", ".join(kinds))
        if self.first_bad is not None:
            parts.append(f"first: {self.first_bad}")
        return "; ".join(parts)


def verify_memory(
    read: Reader, params: GuestParams, *, heard_ticks: Optional[int] = None
) -> MemoryReport:
    """Check every page of a guest that stands still.

    :param read: Returns ``size`` bytes of physical memory at ``address``.
    :param heard_ticks: Tick count of the last beat heard. Without it, memory that
        is old as a whole, status page included, passes for right.
    """
    try:
        status = read_status(read)
    except ValueError as problem:
        return MemoryReport((str(problem),), {}, None, 0, 0, None)
    problems = _check_status(status, params)
    ahead = 0 if heard_ticks is None else _ticks_ahead(status.ticks, heard_ticks)
    problems += _check_ticks(status.ticks, ahead)
    scan = _Scan(status)
    if not problems or status.pages == params.pages:
        scan.run(read)
    if scan.edges > 1:
        where = f"changes at {scan.edges} places of the working set"
        problems.append(f"the sweep's number {where}, at most 1 is right")
    return MemoryReport(
        tuple(problems),
        scan.damage,
        scan.first_bad,
        scan.checked,
        scan.edges,
        status,
        lost_beats=max(ahead, 0),
    )


def read_status(read: Reader) -> Status:
    """Read what the guest has written about itself.

    :raises ValueError: If there is no status page.
    """
    return Status.from_bytes(bytes(read(STATUS_ADDRESS, PAGE_BYTES)))


def _check_status(status: Status, params: GuestParams) -> list[str]:
    problems = []
    told = (status.pages, status.working_pages)
    if told != (params.pages, params.working_pages):
        problems.append(
            f"the guest has {told} pages (all, working set), not"
            f" {(params.pages, params.working_pages)}"
        )
    limit = status.working_pages if status.sweep else status.pages + 1
    if status.position >= max(limit, 1):
        problems.append(f"position {status.position} of sweep {status.sweep}")
    return problems


def _ticks_ahead(told: int, heard: int) -> int:
    """How many ticks the status page has more than the last beat; 0 if they agree."""
    ahead = (told - heard) & _TICKS_MASK
    if ahead > _TICKS_MASK // 2:
        return ahead - _TICKS_MASK - 1
    # One more than heard: the guest counts a tick just before it sends the beat.
    return ahead if ahead > 1 else 0


def _check_ticks(told: int, ahead: int) -> list[str]:
    if ahead < 0:
        last = (told - ahead) & _TICKS_MASK
        return [
            f"the status page's tick {told} is older than the last one heard, {last}"
        ]
    if ahead:
        where = f"{ahead} ahead of the last one heard"
        why = "beats were lost, so that nothing proves it to be new"
        return [f"the status page's tick {told} is {where}: {why}"]
    return []


@dataclass
class _Scan:
    """Goes over all pages once."""

    status: Status
    damage: dict[Damage, int] = field(default_factory=dict)
    first_bad: Optional[BadPage] = None
    checked: int = 0
    edges: int = 0
    _last_sequence: Optional[int] = None

    def run(self, read: Reader) -> None:
        # Pages that the fill has not reached may hold anything.
        status = self.status
        last = status.pages if status.sweep else min(status.position, status.pages)
        for first in range(0, last, _CHUNK_PAGES):
            count = min(_CHUNK_PAGES, last - first)
            address = PATTERN_START + first * PAGE_BYTES
            data = bytes(read(address, count * PAGE_BYTES))
            if len(data) != count * PAGE_BYTES:
                raise ValueError(f"{len(data)} bytes read at {address:#x}")
            self._chunk(data, first, count)

    def _chunk(self, data: bytes, first: int, count: int) -> None:
        seed = self.status.seed
        for index in range(first, first + count):
            sequence = self._expected(index)
            at = (index - first) * PAGE_BYTES
            page = data[at : at + PAGE_BYTES]
            number = _FIRST_NUMBER + index
            if page != page_bytes(number, seed=seed, sequence=sequence):
                sequence = self._differs(index, page, sequence)
            if index < self.status.working_pages:
                self._count_edge(sequence)
        self.checked += count

    def _expected(self, index: int) -> int:
        status = self.status
        if not status.sweep or index >= status.working_pages:
            return 0
        return status.sweep if index < status.position else status.sweep - 1

    def _count_edge(self, sequence: int) -> None:
        if self._last_sequence not in (None, sequence):
            self.edges += 1
        self._last_sequence = sequence

    def _differs(self, index: int, page: bytes, expected: int) -> int:
        """Judge a page that is not as expected; return the sequence it has."""
        number = _FIRST_NUMBER + index
        status = self.status
        if status.sweep and index == status.position < status.working_pages:
            stores = stores_done(page, number, seed=status.seed, sweep=status.sweep)
            if stores is not None:
                return status.sweep if stores == STORES else expected
        damage = judge(page, number, seed=status.seed, expected=expected)
        self.damage[damage] = self.damage.get(damage, 0) + 1
        found = int.from_bytes(page[:4], "little")
        if self.first_bad is None:
            words = [int.from_bytes(page[at : at + 4], "little") for at in (0, 4, 8)]
            text = "sequence {}, number {:#x}, seed {:#x}".format(*words)
            self.first_bad = BadPage(number, damage, expected, text)
        return found


class SuspendableDomain(PeekedDomain, Protocol):
    """What is used of a ``virDomain``."""

    def state(self) -> Union[list[int], tuple[int, int]]: ...

    def suspend(self) -> int: ...

    def resume(self) -> int: ...


class Listener(Protocol):
    """What is used of the collector."""

    @property
    def repeated(self) -> int: ...

    def wait_until_heard(self, ticks: int, timeout: float) -> Optional[int]: ...

    def wait_for_message(self, timeout: float) -> None: ...


def verify_domain(
    dom: SuspendableDomain,
    params: GuestParams,
    *,
    collector: Optional[Listener] = None,
) -> MemoryReport:
    """Suspend the guest, verify its memory, and resume it if it ran before.

    Only for a guest that is wholly on one host: peeking at a page that has not
    arrived yet blocks the daemon's monitor, and a split guest must not be resumed.

    :param collector: Its last beat proves that the memory is not old as a whole. If
        beats were lost just before the stop, the guest is stopped once more.
    :raises HeartbeatTimeout: If it hears no message after the guest was resumed.
    """
    if dom.state()[0] != _STATE_RUNNING:
        return _verify_suspended(dom, params, collector)
    if collector is None:
        with _suspended(dom):
            return _verify_suspended(dom, params, None)
    for _ in range(_MOST_STOPS):
        with _suspended(dom):
            report = _verify_suspended(dom, params, collector)
        # From it on the ticks are certain; and the stop is over before the caller
        # measures the next one.
        collector.wait_for_message(_MESSAGE_S)
        if not report.lost_beats:
            break
    return _with(report, _check_repeated(collector.repeated))


@contextmanager
def _suspended(dom: SuspendableDomain) -> Iterator[None]:
    dom.suspend()
    try:
        yield
    finally:
        dom.resume()


def _verify_suspended(
    dom: PeekedDomain, params: GuestParams, collector: Optional[Listener]
) -> MemoryReport:
    read = peek_reader(dom)
    if collector is None:
        return verify_memory(read, params)
    heard = last_heard(read, collector)
    report = verify_memory(read, params, heard_ticks=heard)
    if heard is not None:
        return report
    return _with(report, ["no beat was heard to tell whether all is old"])


def _check_repeated(repeated: int) -> list[str]:
    if not repeated:
        return []
    return [f"{repeated} ticks were heard twice: the guest went back to old memory"]


def _with(report: MemoryReport, problems: list[str]) -> MemoryReport:
    return replace(report, problems=(*report.problems, *problems))


def last_heard(read: Reader, collector: Listener) -> Optional[int]:
    """Return the last tick heard of a guest that has stopped.

    Waits for what it sent before, which may be on its way.
    """
    try:
        status = read_status(read)
    except ValueError:
        return None
    return collector.wait_until_heard(status.ticks, _SETTLE_S)
