import pytest

from guest import GuestParams, verify_domain, verify_memory
from guest.damage import Damage
from guest.pattern import (
    PAGE_BYTES,
    PATTERN_START,
    STATUS_ADDRESS,
    STORES,
    Status,
    page_bytes,
    page_in_flight,
)

PARAMS = GuestParams(memory_mib=4, working_set_mib=2)
SEED = 0x1234ABCD
FIRST = PATTERN_START // PAGE_BYTES
FAR = PARAMS.working_pages + 50  # outside the working set


class Memory:
    """What a guest leaves that stopped in sweep ``sweep`` at page ``position``."""

    def __init__(self, sweep=5, position=200, *, ticks=1000, seed=SEED):
        self.status = Status(
            seed, ticks, position, sweep, PARAMS.pages, PARAMS.working_pages
        )
        self.data = bytearray(PATTERN_START + PARAMS.pages * PAGE_BYTES)
        self.data[STATUS_ADDRESS : STATUS_ADDRESS + PAGE_BYTES] = self.status.to_bytes()
        for index in range(PARAMS.pages):
            self.put(index, self.page(index, self.sequence(index)))

    def sequence(self, index):
        if index >= PARAMS.working_pages:
            return 0
        return max(self.status.sweep - (index >= self.status.position), 0)

    def page(self, index, sequence):
        return page_bytes(FIRST + index, seed=self.status.seed, sequence=sequence)

    def put(self, index, page):
        at = PATTERN_START + index * PAGE_BYTES
        self.data[at : at + PAGE_BYTES] = page

    def read(self, address, size):
        return bytes(self.data[address : address + size])

    def verify(self, **more):
        return verify_memory(self.read, PARAMS, **more)


@pytest.fixture
def memory():
    return Memory()


def only(report, damage, index):
    """The report must tell of this one page and nothing else."""
    assert not report.ok
    assert dict(report.damage) == {damage: 1}
    assert report.first_bad.number == FIRST + index
    assert report.first_bad.damage is damage
    assert damage.value in str(report)
    return True


def test_right_memory_has_one_edge_and_all_pages_checked(memory):
    report = memory.verify(heard_ticks=1000)
    assert report.ok, report
    assert (report.edges, report.pages_checked, report.sweep) == (1, PARAMS.pages, 5)
    assert report.bad_pages == 0


def test_start_of_a_sweep_has_no_edge():
    report = Memory(position=0).verify()
    assert report.ok, report
    assert report.edges == 0


def test_after_the_fill_all_pages_are_of_sequence_0():
    report = Memory(sweep=1, position=0).verify()
    assert report.ok, report


@pytest.mark.parametrize("index", [10, 300])
def test_stale_page_is_found(memory, index):
    memory.put(index, memory.page(index, memory.sequence(index) - 1))
    report = memory.verify()
    assert only(report, Damage.STALE, index)
    assert report.stale == 1


def test_stale_page_next_to_the_position_is_found(memory):
    memory.put(199, memory.page(199, 4))
    assert only(memory.verify(), Damage.STALE, 199)


def test_page_left_over_from_the_fill_is_found(memory):
    memory.put(10, memory.page(10, 0))
    assert only(memory.verify(), Damage.STALE, 10)


def test_page_newer_than_the_position_is_found(memory):
    memory.put(201, memory.page(201, 5))
    report = memory.verify()
    assert report.damage == {Damage.AHEAD: 1}
    assert report.edges > 1


def test_rewritten_page_outside_the_working_set_is_found(memory):
    memory.put(FAR, memory.page(FAR, 1))
    assert only(memory.verify(), Damage.AHEAD, FAR)


def test_stale_page_makes_further_edges(memory):
    memory.put(10, memory.page(10, 4))
    report = memory.verify()
    assert report.edges == 3
    assert "changes at 3 places" in str(report)


@pytest.mark.parametrize("block", range(8))
def test_torn_page_is_found(memory, block):
    page = bytearray(memory.page(20, 5))
    page[block * 512 : (block + 1) * 512] = memory.page(20, 4)[:512]
    memory.put(20, page)
    report = memory.verify()
    assert only(report, Damage.TORN, 20)
    assert report.torn == 1


def test_page_half_written_away_from_the_position_is_torn(memory):
    memory.put(20, page_in_flight(FIRST + 20, seed=SEED, sequence=5, stores=3))
    assert only(memory.verify(), Damage.TORN, 20)


@pytest.mark.parametrize("stores", range(STORES + 1))
def test_page_half_written_at_the_position_is_right(memory, stores):
    number = FIRST + 200
    page = page_in_flight(number, seed=SEED, sequence=5, stores=stores)
    memory.put(200, page)
    report = memory.verify()
    assert report.ok, report
    assert report.edges == 1


def test_torn_page_at_the_position_is_found(memory):
    page = memory.page(200, 4)[:512] + memory.page(200, 5)[512:]  # the wrong way round
    memory.put(200, page)
    assert only(memory.verify(), Damage.TORN, 200)


def test_stale_page_at_the_position_is_found(memory):
    memory.put(200, memory.page(200, 3))
    assert only(memory.verify(), Damage.STALE, 200)


def test_swapped_pages_are_found(memory):
    memory.put(30, memory.page(31, 5))
    memory.put(31, memory.page(30, 5))
    report = memory.verify()
    assert dict(report.damage) == {Damage.MISPLACED: 2}
    assert not report.ok


@pytest.mark.parametrize("index", [0, 30, 300, FAR, PARAMS.pages - 1])
def test_empty_page_is_found(memory, index):
    memory.put(index, bytes(PAGE_BYTES))
    report = memory.verify()
    assert report.damage == {Damage.EMPTY: 1}
    assert report.first_bad.number == FIRST + index


def test_page_of_another_boot_is_found(memory):
    memory.put(FAR, page_bytes(FIRST + FAR, seed=SEED + 1, sequence=0))
    assert only(memory.verify(), Damage.FOREIGN, FAR)


@pytest.mark.parametrize("at", [0, 5, 9, 12, 2000, 4095])
def test_one_flipped_bit_is_found(memory, at):
    page = bytearray(memory.page(FAR, 0))
    page[at] ^= 1
    memory.put(FAR, page)
    report = memory.verify()
    assert report.bad_pages == 1
    assert not report.ok


def test_memory_old_as_a_whole_is_found_by_the_last_beat(memory):
    assert memory.verify().ok
    report = memory.verify(heard_ticks=1002)
    assert not report.ok
    assert "tick 1000 is older than the last one heard, 1002" in str(report)


def test_old_status_page_is_found_by_the_pages(memory):
    old = Memory(sweep=5, position=150).status.to_bytes()
    memory.data[STATUS_ADDRESS : STATUS_ADDRESS + PAGE_BYTES] = old
    # The page at the old position may be complete, the others may not.
    assert dict(memory.verify().damage) == {Damage.AHEAD: 49}


def test_new_status_page_over_old_pages_is_found(memory):
    new = Memory(sweep=5, position=250).status.to_bytes()
    memory.data[STATUS_ADDRESS : STATUS_ADDRESS + PAGE_BYTES] = new
    assert dict(memory.verify().damage) == {Damage.STALE: 50}


def test_tick_may_be_one_ahead_of_the_last_beat(memory):
    assert memory.verify(heard_ticks=999).ok
    assert not memory.verify(heard_ticks=998).ok


def test_beats_lost_before_the_stop_are_told_apart_from_old_memory(memory):
    report = memory.verify(heard_ticks=1000 - 128)
    assert (report.ok, report.lost_beats) == (False, 128)
    assert "tick 1000 is 128 ahead of the last one heard: beats were lost" in str(
        report
    )
    assert memory.verify(heard_ticks=1002).lost_beats == 0


def test_ticks_wrap_at_32_bits():
    memory = Memory(ticks=5)
    assert memory.verify(heard_ticks=0xFFFFFFF0).lost_beats == 21
    assert "older than" in str(memory.verify(heard_ticks=6))
    old = Memory(ticks=0xFFFFFFF0).verify(heard_ticks=5)
    assert (old.ok, old.lost_beats) == (False, 0)


def test_lost_status_page_is_found(memory):
    memory.data[STATUS_ADDRESS : STATUS_ADDRESS + PAGE_BYTES] = bytes(PAGE_BYTES)
    report = memory.verify()
    assert not report.ok
    assert report.pages_checked == 0
    assert "no status page" in str(report)


def test_guest_built_with_other_figures_is_found(memory):
    other = GuestParams(memory_mib=4, working_set_mib=1)
    report = verify_memory(memory.read, other)
    assert not report.ok
    assert "working set" in str(report)


def test_impossible_position_is_found():
    assert not Memory(position=PARAMS.working_pages).verify().ok


def test_short_read_is_an_error(memory):
    with pytest.raises(ValueError, match="bytes read at"):
        verify_memory(lambda at, n: memory.read(at, n)[: 4096 * 3], PARAMS)


def test_unfilled_pages_are_not_looked_at_during_the_fill(memory):
    filling = Memory(sweep=0, position=100)
    for index in range(100):
        filling.put(index, filling.page(index, 0))
    for index in range(100, PARAMS.pages):
        filling.put(index, b"\xa5" * PAGE_BYTES)
    report = filling.verify()
    assert report.ok, report
    assert report.pages_checked == 100
    filling.put(99, bytes(PAGE_BYTES))
    assert not filling.verify().ok


def test_idle_guest_is_verified_too():
    params = GuestParams(memory_mib=4, working_set_mib=0)
    memory = Memory(sweep=1, position=0)
    status = Status(SEED, 1, 0, 1, params.pages, 0)
    memory.data[STATUS_ADDRESS : STATUS_ADDRESS + PAGE_BYTES] = status.to_bytes()
    assert verify_memory(memory.read, params).ok


class Domain:
    def __init__(self, memory, state=1):
        self.memory = memory
        self.running = state
        self.calls = []

    def state(self):
        return [self.running, 0]

    def suspend(self):
        self.calls.append("suspend")
        return 0

    def resume(self):
        self.calls.append("resume")
        return 0

    def memoryPeek(self, start, size, flags=0):
        assert self.calls[-1:] != ["resume"]
        assert flags == 2
        assert size <= 1 << 20
        return self.memory.read(start, size)


class Heard:
    """Has heard these ticks at one stop after the other, the last one for ever."""

    def __init__(self, *ticks, repeated=0):
        self.ticks = list(ticks)
        self.repeated = repeated
        self.messages = 0

    def wait_for_message(self, timeout):
        self.messages += 1

    def wait_until_heard(self, ticks, timeout):
        return self.ticks.pop(0) if len(self.ticks) > 1 else self.ticks[0]


def test_running_domain_is_suspended_and_resumed(memory):
    domain, heard = Domain(memory), Heard(1000)
    assert verify_domain(domain, PARAMS, collector=heard).ok
    assert domain.calls == ["suspend", "resume"]
    assert heard.messages == 1


def test_domain_is_stopped_once_more_if_beats_were_lost(memory):
    domain, heard = Domain(memory), Heard(1000 - 128, 943, 1000)
    report = verify_domain(domain, PARAMS, collector=heard)
    assert report.ok, report
    assert domain.calls == ["suspend", "resume"] * 3
    assert heard.messages == 3


def test_domain_whose_beats_are_lost_each_time_is_not_proven(memory):
    domain = Domain(memory)
    report = verify_domain(domain, PARAMS, collector=Heard(1000 - 128))
    assert not report.ok
    assert len(domain.calls) == 8


def test_domain_that_went_back_is_found(memory):
    report = verify_domain(Domain(memory), PARAMS, collector=Heard(1000, repeated=300))
    assert not report.ok
    assert "300 ticks were heard twice" in str(report)


def test_paused_domain_stays_paused(memory):
    domain, heard = Domain(memory, state=3), Heard(1000)
    assert verify_domain(domain, PARAMS, collector=heard).ok
    assert (domain.calls, heard.messages) == ([], 0)


def test_domain_is_resumed_when_reading_fails(memory):
    domain = Domain(memory)
    domain.memoryPeek = lambda *_: b"short"
    with pytest.raises(Exception, match="unpack"):
        verify_domain(domain, PARAMS)
    assert domain.calls == ["suspend", "resume"]


def test_domain_older_than_its_last_beat_is_found(memory):
    domain = Domain(memory)
    assert not verify_domain(domain, PARAMS, collector=Heard(1300)).ok
    assert domain.calls == ["suspend", "resume"]


def test_domain_never_heard_is_not_proven(memory):
    report = verify_domain(Domain(memory), PARAMS, collector=Heard(None))
    assert not report.ok
    assert "no beat was heard" in str(report)
