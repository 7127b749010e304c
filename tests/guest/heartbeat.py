"""Listen to a guest's heartbeat, and so measure when it stood still.

How exact it is: a beat is stamped when the collector's thread has read it. What lies
between the guest's store and the stamp (the emulator's timer coming late, the host's
scheduler, another Python thread holding the interpreter, which may keep it for 5 ms)
adds to some gaps and never takes anything from a stall. A measured blackout is
therefore an upper bound, too long by the jitter of an undisturbed run, which a test
should measure beside it; ``Gap.bunch`` tells when the listener was the late one. Keep
the process quiet while it measures: poll nothing in a tight loop.
"""

import contextlib
import os
import selectors
import socket
import stat
import threading
import time
from typing import Callable, Optional, TypeVar, Union

from .image import GuestParams
from .journal import Gap, Journal, Stray
from .wire import Message

__all__ = ["Collector", "HeartbeatTimeout", "GuestFault"]

_CHUNK = 65536
_IMPATIENCE_S = 0.2
_PRIORITY = -20

T = TypeVar("T")
PathLike = Union[str, "os.PathLike[str]"]


class HeartbeatTimeout(TimeoutError):
    """What was waited for did not come; the text says what was heard instead."""


class GuestFault(RuntimeError):
    """The guest says that it cannot work."""


class Collector:
    """Listens on a unix socket to which the QEMUs of one guest connect.

    A context manager: the socket is there inside it. Each QEMU is one connection,
    numbered from 0 in the order they came. Times are ``time.monotonic()``.

    :param mode: Permissions of the socket; QEMU runs as another user.
    """

    def __init__(self, path: PathLike, *, mode: int = 0o666) -> None:
        self.path = os.fspath(path)
        self._mode = mode
        self._journal = Journal()
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._connections: list[socket.socket] = []
        self._open: dict[int, socket.socket] = {}
        self._thread: Optional[threading.Thread] = None
        self._error: Optional[BaseException] = None

    def __enter__(self) -> "Collector":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Open the socket and listen."""
        self._listener = _listen(self.path, self._mode)
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ, -2)
        self._selector.register(self._wake, selectors.EVENT_READ, -1)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket. What was heard stays."""
        if self._thread is None:
            return
        self._waker.send(b"x")
        self._thread.join()
        self._thread = None
        self._selector.close()
        for connection in (*self._connections, self._wake, self._waker):
            connection.close()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    # What was heard

    @property
    def beats(self) -> int:
        with self._changed:
            return self._journal.beats

    @property
    def lost(self) -> int:
        """Beats that never came, over all connections; exact after a message."""
        with self._changed:
            return self._journal.lost

    @property
    def repeated(self) -> int:
        """Beats of ticks heard before, as of a guest that went back; exact after a message."""
        with self._changed:
            return self._journal.repeated

    @property
    def boots(self) -> int:
        with self._changed:
            return self._journal.boots

    @property
    def damaged(self) -> int:
        """Messages that arrived incomplete."""
        with self._changed:
            return self._journal.damaged

    @property
    def ticks(self) -> Optional[int]:
        """Tick count of the last beat; a guess if many were lost since the last message."""
        with self._changed:
            return self._journal.ticks

    @property
    def last_beat_time(self) -> Optional[float]:
        with self._changed:
            return self._journal.last_beat_time

    @property
    def last_message(self) -> Optional[Message]:
        with self._changed:
            return self._journal.last_message

    @property
    def running(self) -> Optional[int]:
        """The connection that beats, the newest one that ever did."""
        with self._changed:
            return self._journal.running

    @property
    def connections(self) -> int:
        """How many came, closed ones included."""
        with self._changed:
            return len(self._connections)

    @property
    def open_connections(self) -> tuple[int, ...]:
        with self._changed:
            return tuple(sorted(self._open))

    @property
    def strays(self) -> tuple[Stray, ...]:
        """Beats that prove two QEMUs running the guest at a time."""
        with self._changed:
            return tuple(self._journal.strays)

    def beats_of(self, connection: int) -> int:
        with self._changed:
            return self._journal.beats_of(connection)

    def longest_gaps(
        self,
        count: int = 10,
        *,
        since: Optional[float] = None,
        until: Optional[float] = None,
    ) -> list[Gap]:
        """Return the longest gaps that reach into the time given, longest first.

        The time since the last beat counts as a gap too if ``until`` is not past.
        """
        with self._changed:
            return self._journal.longest_gaps(
                count, since=since, until=until, now=time.monotonic()
            )

    def blackout(
        self, *, since: Optional[float] = None, until: Optional[float] = None
    ) -> Gap:
        """Return the longest gap.

        :raises HeartbeatTimeout: If fewer than two beats were heard.
        """
        gaps = self.longest_gaps(1, since=since, until=until)
        if not gaps:
            raise HeartbeatTimeout(f"no beats to measure by; {self._describe()}")
        return gaps[0]

    def beats_a_second(self, *, since: float, until: Optional[float] = None) -> float:
        end = time.monotonic() if until is None else until
        with self._changed:
            return self._journal.beats_between(since, end) / (end - since)

    def dirty_rate_mib_s(
        self, params: GuestParams, *, since: float, until: Optional[float] = None
    ) -> Optional[float]:
        """Return how fast the guest rewrote its working set, by its own count.

        None if it sent fewer than two status messages in that time, ten a second.
        """
        end = time.monotonic() if until is None else until
        with self._changed:
            return self._journal.dirty_rate_mib_s(
                params.working_pages, since=since, until=end
            )

    # Waiting

    def wait_for_fill(self, timeout: float) -> float:
        """Wait until all memory has been filled; return when that was heard.

        :raises HeartbeatTimeout: If it takes longer.
        :raises GuestFault: If the guest has less memory than the image says.
        """
        return self._wait("the end of the fill", timeout, self._filled)

    def _filled(self) -> Optional[float]:
        if self._journal.fault is not None:
            raise GuestFault("the guest has less memory than its image was built for")
        return self._journal.filled_at

    def wait_for_beats(
        self, count: int, timeout: float, *, connection: Optional[int] = None
    ) -> None:
        """Wait for ``count`` further beats, of one connection if given."""
        with self._changed:
            goal = self._count(connection) + count
        self._wait(
            f"{count} beats",
            timeout,
            lambda: True if self._count(connection) >= goal else None,
        )

    def _count(self, connection: Optional[int]) -> int:
        if connection is None:
            return self._journal.beats
        return self._journal.beats_of(connection)

    def wait_for_connection(self, number: int, timeout: float) -> None:
        """Wait until connection ``number`` is there, beating or not."""
        self._wait(
            f"connection {number}",
            timeout,
            lambda: True if len(self._connections) > number else None,
        )

    def wait_for_move(self, origin: int, timeout: float) -> int:
        """Wait until the guest beats on a newer connection than ``origin``.

        :param origin: ``running`` as it was before the migration.
        :returns: The new connection.
        """

        def moved() -> Optional[int]:
            running = self._journal.running
            return running if running is not None and running > origin else None

        return self._wait("the guest on another QEMU", timeout, moved)

    def wait_for_message(self, timeout: float) -> None:
        """Wait for one more message: from there on ticks, lost and repeated are exact."""
        with self._changed:
            goal = self._journal.messages + 1
        self._wait(
            "a message",
            timeout,
            lambda: True if self._journal.messages >= goal else None,
        )

    def wait_until_heard(self, ticks: int, timeout: float) -> Optional[int]:
        """Wait for the beat of that tick and return the last tick heard.

        Of a guest that has stopped, the last beat may be missing for good: it counts
        a tick before it says it. No error if the beat does not come.
        """

        def heard(least: int) -> Callable[[], Optional[bool]]:
            return lambda: True if (self._journal.ticks or 0) >= least else None

        try:
            self._wait("the last beat but one", timeout, heard(ticks - 1))
            self._wait("the last beat", min(timeout, _IMPATIENCE_S), heard(ticks))
        except HeartbeatTimeout:
            pass
        return self.ticks

    def _wait(
        self, what: str, timeout: float, condition: Callable[[], Optional[T]]
    ) -> T:
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if self._error is not None:
                    raise RuntimeError("the collector stopped") from self._error
                found = condition()
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
        raise HeartbeatTimeout(
            f"{what} did not come within {timeout:g} s; {self._describe()}"
        )

    def _describe(self) -> str:
        with self._changed:
            journal = self._journal
            return (
                f"{len(self._connections)} connection(s) on {self.path},"
                f" {journal.beats} beats, last message {journal.last_message}"
            )

    # The thread

    def _run(self) -> None:
        _raise_priority()
        try:
            while self._round():
                pass
        except BaseException as error:  # whoever waits must learn of it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _round(self) -> bool:
        # Older connections first: a source writes its last beat before the
        # destination runs, so with both readable this is the order they were sent.
        ready = sorted(key.data for key, _ in self._selector.select())
        for number in ready:
            if number == -1:
                return False
            if number == -2:
                self._accept()
            else:
                self._read(number)
        return True

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        with self._changed:
            number = len(self._connections)
            self._connections.append(connection)
            self._open[number] = connection
            self._selector.register(connection, selectors.EVENT_READ, number)
            self._changed.notify_all()

    def _read(self, number: int) -> None:
        try:
            data = self._connections[number].recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        now = time.monotonic()
        with self._changed:
            if data:
                self._journal.feed(number, data, now)
            else:
                self._selector.unregister(self._open.pop(number))
            self._changed.notify_all()


def _listen(path: str, mode: int) -> socket.socket:
    """Listen on ``path``; a socket that nobody listens on any more is replaced."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {path}: {error}") from error
    return listener


def _raise_priority() -> None:
    """Be scheduled before the emulators, which keep all processors busy."""
    # Without it the measurement is less exact.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
