"""One monitor of one QEMU, message by message, and the record that all sides write into.

Not a QMP library: a check must see what was really sent and answered, in which order and when, also where it breaks
the protocol, and must be able to send what no library would.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from libvirt_postcopy.conformance.evidence import Exchange, Line

__all__ = ["Gone", "Hung", "Monitor", "Record", "Stopped"]

ANSWER_S = 10.0
_LINE_BYTES = 64 << 20
_LAST = ("proc", "stderr")


class Stopped(Exception):
    """A scenario cannot go on; what was recorded says why."""


class Gone(Stopped):
    """A QEMU has ended, or closed its monitor."""


class Hung(Stopped):
    """What was waited for did not come."""


class Record:
    """What all sides said, in one order; whoever waits for something is woken by every line."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.began = time.monotonic()
        self._changed = threading.Condition()
        self._is_closed = False

    def add(self, side: str, kind: str, msg: Any) -> Line:
        with self._changed:
            line = Line(
                round(time.monotonic() - self.began, 6),
                side,
                kind,
                msg,
                len(self.lines) + 1,
            )
            if not self._is_closed or kind in _LAST:
                self.lines.append(line)
            self._changed.notify_all()
            return line

    def pause(self, seconds: float) -> None:
        """Let time pass between two questions; a stop of the run ends it at once."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._is_closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def close(self) -> None:
        """Take no more lines but how each process ended; who waits is woken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(
        self,
        wanted: Callable[[Line], bool],
        what: str,
        *,
        since: int = 0,
        timeout_s: float = ANSWER_S,
        gone: str = "",
    ) -> Line:
        """Wait for a line.

        :param what: What is recorded as waited for in vain; empty if it need not come.
        :param since: The first line that counts.
        :param gone: Give up when this side's monitor has ended.
        :raises Hung: If it does not come.
        :raises Gone: If that side ends before.
        """
        deadline = time.monotonic() + timeout_s
        place = since
        has_ended = False
        while True:
            with self._changed:
                while place >= len(self.lines):
                    left = deadline - time.monotonic()
                    if left <= 0 or self._is_closed:
                        break
                    self._changed.wait(left)
                fresh = self.lines[place:]
            for line in fresh:
                if wanted(line):
                    return line
                has_ended = has_ended or (line.dir == "eof" and line.side == gone)
            place += len(fresh)
            if has_ended:
                raise Gone(f"{gone} ended while it was waited for {what}")
            if not fresh and not what:
                raise Hung("nothing came")
            if not fresh:
                self.add(gone, "timeout", f"{what}: not within {timeout_s:g} s")
                raise Hung(f"{gone}: {what}: not within {timeout_s:g} s")


class Monitor:
    """A connection to a QEMU's monitor."""

    def __init__(self, connection: socket.socket, side: str, record: Record) -> None:
        self.side = side
        self.record = record
        self.has_oob = False
        self.greeting: Mapping[str, Any] = {}
        self._socket = connection
        self._ids = itertools.count(1)
        self._reader = threading.Thread(
            target=self._read, name=f"monitor-{side}", daemon=True
        )

    def start(self, *, oob: bool = False) -> None:
        """Wait for the greeting and leave negotiation mode."""
        self._reader.start()
        line = self.record.wait(
            lambda line: line.side == self.side and line.dir == "greeting",
            "the greeting",
            gone=self.side,
        )
        qmp = line.msg.get("QMP", {})
        self.greeting = qmp
        self.has_oob = oob and "oob" in qmp.get("capabilities", [])
        self.cmd("qmp_capabilities", {"enable": ["oob"]} if self.has_oob else {})

    def cmd(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        timeout_s: float = ANSWER_S,
    ) -> Exchange:
        """Send a command and wait for its answer; a refusal is an answer.

        :param oob: Out of band, where that was negotiated.
        :raises Hung: If there is no answer in time.
        :raises Gone: If the monitor ends before it.
        """
        msg: dict[str, Any] = {"exec-oob" if oob and self.has_oob else "execute": name}
        if arguments:
            msg["arguments"] = dict(arguments)
        msg["id"] = next(self._ids)
        return self.send(msg, timeout_s=timeout_s)

    def send(self, msg: Mapping[str, Any], *, timeout_s: float = ANSWER_S) -> Exchange:
        """Send a message as it is, and wait for what answers it."""
        begin = len(self.record.lines)
        line = self.post(msg)
        wanted = msg.get("id", line)
        reply = self.record.wait(
            lambda each: each.side == self.side
            and each.dir == "reply"
            and ("id" not in each.msg or each.msg["id"] == wanted),
            f"an answer to {msg.get('execute', msg.get('exec-oob'))}",
            since=begin,
            timeout_s=timeout_s,
            gone=self.side,
        )
        return Exchange(line, reply)

    def post(self, *msgs: Mapping[str, Any], files: tuple[int, ...] = ()) -> Line:
        """Send messages at once, so that nothing is seen between them, and wait for nothing.

        :param files: File descriptors that go with them.
        """
        line = [self.record.add(self.side, "cmd", dict(msg)) for msg in msgs][-1]
        data = b"".join(json.dumps(msg).encode() + b"\n" for msg in msgs)
        try:
            if files:
                socket.send_fds(self._socket, [data], list(files))
            else:
                self._socket.sendall(data)
        except OSError as error:
            raise Gone(f"{self.side}: {error}") from error
        return line

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.is_alive():
            self._reader.join(5)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._socket.makefile(
            "rb"
        ) as file:
            while True:
                data = file.readline(_LINE_BYTES)
                if not data:
                    break
                self._note(data)
        self.record.add(self.side, "eof", None)

    def _note(self, data: bytes) -> None:
        try:
            msg = json.loads(data)
        except ValueError:
            msg = None
        if not isinstance(msg, dict):
            self.record.add(
                self.side, "note", {"not JSON": data[:200].decode(errors="replace")}
            )
        elif "QMP" in msg:
            self.record.add(self.side, "greeting", msg)
        else:
            self.record.add(self.side, "event" if "event" in msg else "reply", msg)
