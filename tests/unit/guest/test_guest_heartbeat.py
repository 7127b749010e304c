import fcntl
import os
import socket
import stat
import sys
import termios
import threading
import time

import pytest

from guest import Collector, HeartbeatTimeout
from guest.heartbeat import GuestFault
from guest.wire import Message, MessageType, encode
from waiting import wait_until

TIMEOUT = 10


def message(type_=MessageType.STATUS, *, ticks=0, sweep=1):
    return encode(Message(type_, 1, ticks, 0, sweep))


class Qemu:
    """Connects as a QEMU does, and beats when told."""

    def __init__(self, collector):
        number = collector.connections
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(collector.path)
        collector.wait_for_connection(number, TIMEOUT)

    def say(self, data):
        self.socket.sendall(data)

    def unread(self):
        """Bytes that the collector has not taken from the socket yet."""
        return int.from_bytes(
            fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder
        )

    def beats(self, *ticks):
        self.say(bytes(tick % 128 for tick in ticks))


@pytest.fixture
def collector(tmp_path):
    with Collector(tmp_path / "beat") as listening:
        yield listening


@pytest.fixture
def connect(collector):
    opened = []

    def make():
        opened.append(Qemu(collector))
        return opened[-1]

    yield make
    for qemu in opened:
        qemu.socket.close()


@pytest.fixture
def source(connect):
    qemu = connect()
    qemu.say(b"\0" + message())
    return qemu


def test_other_users_may_connect(collector):
    assert stat.S_IMODE(os.stat(collector.path).st_mode) == 0o666


def test_beats_are_waited_for(collector, source):
    waiting = threading.Thread(
        target=collector.wait_for_beats, args=(3, TIMEOUT), daemon=True
    )
    waiting.start()
    source.beats(1, 2, 3, 4)
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()


def test_silence_is_a_timeout_that_tells_what_was_heard(collector, source):
    with pytest.raises(HeartbeatTimeout, match=r"5 beats .* 1 connection\(s\)"):
        collector.wait_for_beats(5, 0.05)


def test_fill_is_waited_for(collector, connect):
    qemu = connect()
    qemu.say(b"\0" + message(MessageType.BOOT, sweep=0))
    with pytest.raises(HeartbeatTimeout, match="end of the fill"):
        collector.wait_for_fill(0.05)
    qemu.say(b"\1" + message(MessageType.FILLED))
    assert collector.wait_for_fill(TIMEOUT) <= time.monotonic()


def test_missing_memory_is_a_fault(collector, connect):
    connect().say(b"\0" + message(MessageType.NO_MEMORY, sweep=0))
    with pytest.raises(GuestFault):
        collector.wait_for_fill(TIMEOUT)


def test_message_is_waited_for(collector, source):
    # Until the first one is heard, it is the one waited for.
    collector._wait(
        "the first message", TIMEOUT, lambda: collector._journal.messages or None
    )
    with pytest.raises(HeartbeatTimeout, match="a message did not come"):
        collector.wait_for_message(0.05)
    waiting = threading.Thread(
        target=collector.wait_for_message, args=(TIMEOUT,), daemon=True
    )
    waiting.start()
    wait_until(lambda: collector._changed._waiters, "somebody waiting", TIMEOUT)
    source.beats(200)
    source.say(message(ticks=200))
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()
    assert (collector.ticks, collector.lost) == (200, 199)


def test_move_is_seen(collector, connect, source):
    source.beats(1)
    destination = connect()
    with pytest.raises(HeartbeatTimeout):
        collector.wait_for_move(0, 0.05)
    destination.beats(2, 3)
    assert collector.wait_for_move(0, TIMEOUT) == 1
    assert (collector.running, collector.beats_of(1)) == (1, 2)
    assert (collector.lost, collector.repeated) == (0, 0)


def test_two_beating_qemus_are_seen(collector, connect, source):
    source.beats(1)
    destination = connect()
    destination.beats(2)
    collector.wait_for_move(0, TIMEOUT)
    source.beats(2, 3)
    destination.beats(3)
    collector.wait_for_beats(0, TIMEOUT)
    collector.wait_until_heard(3, TIMEOUT)
    source.socket.close()
    wait_until(lambda: collector.open_connections == (1,), "the end", TIMEOUT)
    assert len(collector.strays) == 2


def test_last_beats_of_the_source_are_no_stray_if_read_late(collector, connect, source):
    # Both sockets become readable while the collector is busy.
    destination = connect()
    with collector._changed:
        source.beats(1)
        wait_until(lambda: not source.unread(), "the collector at its lock", TIMEOUT)
        source.beats(2, 3)
        destination.beats(4, 5)
    collector.wait_for_move(0, TIMEOUT)
    collector.wait_until_heard(5, TIMEOUT)
    assert collector.ticks == 5
    assert not collector.strays


def test_closed_connection_is_seen(collector, source):
    assert collector.open_connections == (0,)
    source.socket.close()
    wait_until(lambda: not collector.open_connections, "the end", TIMEOUT)
    assert collector.connections == 1


def test_blackout_is_measured(collector, source):
    source.beats(1)
    collector.wait_for_beats(0, TIMEOUT)
    collector.wait_until_heard(1, TIMEOUT)
    start = time.monotonic()
    time.sleep(0.1)  # the gap that is to be measured
    source.beats(2)
    collector.wait_until_heard(2, TIMEOUT)
    gap = collector.blackout(since=start)
    assert 0.1 <= gap.length_s < 0.1 + TIMEOUT
    assert not gap.is_open


def test_blackout_needs_beats(collector):
    with pytest.raises(HeartbeatTimeout, match="no beats"):
        collector.blackout()


def test_beat_that_never_comes_is_not_waited_for_long(collector, source):
    source.beats(1)
    collector.wait_until_heard(1, TIMEOUT)
    start = time.monotonic()
    assert collector.wait_until_heard(2, TIMEOUT) == 1
    assert time.monotonic() - start < TIMEOUT / 2


def test_socket_is_gone_after_closing_and_what_was_heard_stays(tmp_path):
    with Collector(tmp_path / "beat") as collector:
        qemu = Qemu(collector)
        qemu.say(b"\0" + message() + b"\1\2")
        collector.wait_until_heard(2, TIMEOUT)
        qemu.socket.close()
    assert not os.path.exists(collector.path)
    assert collector.beats == 2
    collector.close()


def test_socket_left_over_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "beat"))
    with Collector(tmp_path / "beat"):
        pass


def test_file_in_the_way_is_not_removed(tmp_path):
    (tmp_path / "beat").write_text("precious")
    with pytest.raises(OSError, match="cannot listen on"):
        Collector(tmp_path / "beat").start()
    assert (tmp_path / "beat").read_text() == "precious"
