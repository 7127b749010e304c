"""virsh-postcopy as a person types it, on the operator's workstation."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType

from scenes.stage import VENV

__all__ = [
    "URI",
    "Typed",
    "close_the_terminal",
    "migrate",
    "press_ctrl_c_on_a_terminal",
    "virsh_postcopy",
    "without_delays",
]

URI = "qemu+tcp://b/system"

_PROGRAM = [str(VENV / "virsh-postcopy"), "-c", "qemu+tcp://a/system"]


def virsh_postcopy(*argv: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [*_PROGRAM, *argv],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def migrate(
    *options: str, name: str = "busy", uri: str = URI
) -> subprocess.CompletedProcess[str]:
    """Run ``migrate`` to its end."""
    return virsh_postcopy("migrate", *options, name, uri)


def without_delays(said: str, *, is_asked_again: bool = False) -> str:
    """What was said, but for what a machine that is busy for a second may add: the switch had to wait.

    :param is_asked_again: It may have been asked for again, too, where the program's own bound holds: once, as the next has longer.
    """
    rest = re.sub(_WAITS, "", said)
    return re.sub(_AGAIN, "", rest, count=1) if is_asked_again else rest


_SWITCH = r"(?m)^(?:note: )?the switch(?: to post-copy)? "
_WAITS = (
    rf"{_SWITCH}waits: the destination's daemon does not answer(?: \(\S+\))?(?:\n|\Z)"
)
_AGAIN = rf"{_SWITCH}was sent but has not come: asking again(?:\n|\Z)"


def press_ctrl_c_on_a_terminal(
    options: Sequence[str], name: str = "busy"
) -> tuple[int, str]:
    """Run ``migrate`` on a terminal and press Ctrl-C as soon as its job is there."""
    child, terminal = pty.fork()
    if not child:
        os.execv(_PROGRAM[0], [*_PROGRAM, "migrate", *options, name, URI])
    try:
        _wait_for_job(name)
        os.write(terminal, b"\x03")
        text = "".join(_read_all(terminal))
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), text


def close_the_terminal(options: Sequence[str], shown: str, name: str = "busy") -> int:
    """Run ``migrate`` on a terminal that is closed as soon as it has shown something.

    :return: Its exit status.
    """
    child, terminal = pty.fork()
    if not child:
        os.execv(_PROGRAM[0], [*_PROGRAM, "migrate", *options, name, URI])
    try:
        text = ""
        for part in _read_all(terminal):
            text += part
            if shown in text:
                break
        assert shown in text, text
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def _wait_for_job(name: str) -> None:
    deadline = time.monotonic() + 30
    while "Data processed" not in virsh_postcopy("domjobinfo", name).stdout:
        assert time.monotonic() < deadline, "no migration has begun"


def _read_all(terminal: int) -> Iterator[str]:
    with suppress(OSError):  # EIO: nobody holds its other end any more
        while content := os.read(terminal, 4096):
            yield content.decode()


class Typed:
    """A ``migrate`` that is under way, its words on stderr, and a hand on Ctrl-C.

    :param verb: Another command that takes a domain and the destination.
    :param uri: The destination; empty for none.
    """

    def __init__(
        self,
        options: Sequence[str],
        name: str = "busy",
        verb: str = "migrate",
        uri: str = URI,
    ) -> None:
        self._process = subprocess.Popen(
            [*_PROGRAM, verb, *options, name, *filter(None, [uri])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self._text = ""
        self._is_at_end = False
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Typed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                with self._changed:
                    self._text += line
                    self._changed.notify_all()
        with self._changed:
            self._is_at_end = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, timeout: float = 40) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            return bool(re.search(pattern, self._text)) or self._is_at_end

        with self._changed:
            self._changed.wait_for(said, timeout)
            assert re.search(pattern, self._text), f"not said: {pattern}\n{self._text}"

    def press_ctrl_c(self) -> None:
        self.send(signal.SIGINT)

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self, timeout: float = 60) -> tuple[int, str]:
        """Wait for the end; exit status and all it has said."""
        code = self._process.wait(timeout)
        with self._changed:
            self._changed.wait_for(lambda: self._is_at_end, timeout)
        return code, self._text
