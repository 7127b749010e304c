import pytest

from guest.journal import Journal
from guest.wire import Message, MessageType, encode

SEED = 99


def status(ticks, *, sweep=1, position=0, seed=SEED, type_=MessageType.STATUS):
    return encode(Message(type_, seed, ticks, position, sweep))


class Line:
    """Feeds beats at a steady pace."""

    def __init__(self, tick=1000):
        self.journal = Journal()
        self.tick = tick
        self.now = 0.0
        self.beat(0)
        self.journal.feed(0, status(tick), self.now)
        self.beats(0, 10)

    def beat(self, connection, *, after=0.5e-3):
        self.now += after
        self.journal.feed(connection, bytes([self.tick % 128]), self.now)

    def beats(self, connection, count):
        for _ in range(count):
            self.tick += 1
            self.beat(connection)


@pytest.fixture
def line():
    return Line()


def test_steady_beats_are_neither_lost_nor_repeated(line):
    line.beats(0, 1000)
    journal = line.journal
    assert (journal.beats, journal.lost, journal.repeated) == (1010, 0, 0)
    assert journal.ticks == line.tick
    assert journal.beats_of(0) == 1010


def test_beats_before_the_first_message_do_not_count():
    journal = Journal()
    journal.feed(0, b"SeaBIOS text\r\n\x05", 1.0)
    assert (journal.beats, journal.ticks) == (0, None)
    journal.feed(0, status(5), 1.1)
    journal.feed(0, b"\x06", 1.2)
    assert (journal.beats, journal.ticks, journal.lost) == (1, 6, 0)


@pytest.mark.parametrize("missing", [1, 5, 90])
def test_lost_beats_are_counted(line, missing):
    line.tick += missing
    line.beats(0, 5)
    assert (line.journal.lost, line.journal.repeated) == (missing, 0)


def test_more_lost_beats_than_a_byte_tells_are_found_by_the_next_message(line):
    line.tick += 1024 + 5
    line.beats(0, 40)
    assert line.journal.lost == 5
    line.journal.feed(0, status(line.tick), line.now)
    assert line.journal.lost == 1024 + 5
    assert line.journal.ticks == line.tick
    line.beats(0, 40)
    assert line.journal.lost == 1024 + 5


@pytest.mark.parametrize("missing", [100, 127, 128, 139, 256, 1000])
def test_lost_beats_that_look_like_repeated_ones_are_put_right_by_a_message(
    line, missing
):
    line.tick += missing
    line.beats(0, 40)
    # What a stop at this moment would have been told.
    assert (line.tick - line.journal.ticks) % 128 == 0
    assert line.journal.ticks < line.tick
    line.journal.feed(0, status(line.tick), line.now)
    assert line.journal.ticks == line.tick
    line.beats(0, 40)
    line.journal.feed(0, status(line.tick), line.now)
    assert (line.journal.lost, line.journal.repeated) == (missing, 0)


def test_losses_between_several_messages_add_up(line):
    for missing in (3, 110, 300):
        line.tick += missing
        line.beats(0, 40)
        line.journal.feed(0, status(line.tick), line.now)
    assert (line.journal.lost, line.journal.repeated) == (413, 0)


def test_repeated_beats_are_counted(line):
    line.tick -= 3
    line.beats(0, 5)
    assert (line.journal.lost, line.journal.repeated) == (0, 3)


@pytest.mark.parametrize("back", [20, 60, 128, 500, 512])
def test_guest_that_went_far_back_is_found_by_the_next_message(line, back):
    line.beats(0, 1000)
    line.tick -= back
    line.beats(1, 40)
    line.journal.feed(1, status(line.tick), line.now)
    line.beats(1, 1000)
    line.journal.feed(1, status(line.tick), line.now)
    assert (line.journal.lost, line.journal.repeated) == (0, back)


def test_same_beat_twice_is_repeated(line):
    line.beat(0)
    assert line.journal.repeated == 1


def test_sequence_goes_on_over_a_move(line):
    line.beats(1, 50)
    journal = line.journal
    assert (journal.lost, journal.repeated) == (0, 0)
    assert journal.running == 1
    assert (journal.beats_of(0), journal.beats_of(1)) == (10, 50)
    assert not journal.strays


def test_beat_lost_in_a_move_is_counted(line):
    line.tick += 2
    line.beats(1, 50)
    assert line.journal.lost == 2


def test_old_connection_that_beats_again_is_a_stray(line):
    line.beats(1, 5)
    line.journal.feed(0, b"\x01", 7.0)
    (stray,) = line.journal.strays
    assert (stray.connection, stray.running, stray.time) == (0, 1, 7.0)
    assert line.journal.running == 1
    assert line.journal.lost == 0


def test_newer_connection_that_stays_silent_is_no_move(line):
    line.journal.feed(1, b"", line.now)
    line.beats(0, 5)
    assert line.journal.running == 0
    assert not line.journal.strays


def test_second_boot_starts_over(line):
    line.journal.feed(0, status(line.tick), line.now)
    line.tick = 1
    line.beats(0, 20)
    boot = status(1, seed=SEED + 1, sweep=0, type_=MessageType.BOOT)
    line.journal.feed(0, boot, line.now)
    line.beats(0, 100)
    assert line.journal.boots == 2
    assert (line.journal.lost, line.journal.repeated) == (0, 0)
    assert line.journal.ticks == line.tick


def test_longest_gap_is_the_blackout(line):
    line.tick += 1
    line.beat(0, after=0.25)
    line.beats(0, 10)
    (gap,) = line.journal.longest_gaps(1)
    assert gap.length_s == pytest.approx(0.25)
    assert (gap.bunch, gap.moved, gap.is_open) == (1, False, False)


def test_gap_of_a_move_tells_both_connections(line):
    line.tick += 1
    line.beat(1, after=0.25)
    (gap,) = line.journal.longest_gaps(1)
    assert (gap.from_connection, gap.to_connection, gap.moved) == (0, 1, True)


def test_gaps_come_longest_first(line):
    for length in (0.1, 0.3, 0.2):
        line.tick += 1
        line.beat(0, after=length)
    lengths = [gap.length_s for gap in line.journal.longest_gaps(2)]
    assert lengths == pytest.approx([0.3, 0.2])


def test_only_gaps_that_reach_into_the_time_count(line):
    line.tick += 1
    line.beat(0, after=0.25)
    end = line.now
    line.beats(0, 10)
    journal = line.journal
    assert journal.longest_gaps(1, since=end)[0].length_s < 0.001
    assert journal.longest_gaps(1, until=end - 0.251)[0].length_s < 0.001
    assert journal.longest_gaps(1, since=end - 0.1)[0].length_s > 0.2
    assert journal.longest_gaps(1, until=end - 0.1)[0].length_s > 0.2


def test_dead_guest_has_an_open_gap(line):
    (gap,) = line.journal.longest_gaps(1, now=line.now + 3)
    assert gap.is_open
    assert gap.length_s == pytest.approx(3)


def test_beats_that_came_together_tell_that_the_listener_was_late(line):
    data = bytes((line.tick + step) % 128 for step in (1, 2, 3))
    line.journal.feed(0, data, line.now + 0.1)
    (gap,) = line.journal.longest_gaps(1)
    assert (gap.length_s, gap.bunch) == (pytest.approx(0.1), 3)


def test_beats_are_counted_in_an_interval(line):
    start = line.now
    line.beats(0, 20)
    assert line.journal.beats_between(start, line.now) == 20
    assert line.journal.beats_between(line.now, line.now + 1) == 0


def test_dirty_rate_follows_from_messages(line):
    line.beat(0)
    journal = line.journal
    journal.feed(0, status(2000, sweep=3, position=100), 10.0)
    journal.feed(0, status(4000, sweep=5, position=356), 11.0)
    rate = journal.dirty_rate_mib_s(512, since=9, until=12)
    assert rate == pytest.approx((2 * 512 + 256) / 256)
    assert journal.dirty_rate_mib_s(512, since=10.5, until=12) is None


def test_end_of_the_fill_is_taken_from_any_message():
    journal = Journal()
    journal.feed(0, b"\x05" + status(5, sweep=0), 1.0)
    assert journal.filled_at is None
    journal.feed(0, status(6, sweep=1), 2.0)
    journal.feed(0, status(7, sweep=2), 3.0)
    assert journal.filled_at == 2.0


def test_fault_is_kept():
    journal = Journal()
    journal.feed(0, b"\x05" + status(5, type_=MessageType.NO_MEMORY, sweep=0), 1.0)
    assert journal.fault is not None
