"""A monitor on a unix socket that says what it is told to, byte by byte as QEMU does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Union

__all__ = ["DEAF", "GREETING", "MonitorServer", "refuse", "stand_still"]

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},'
    b' "package": ""}, "capabilities": ["oob"]}}\r\n'
)

Answer = Union[Any, Callable[["MonitorServer"], None]]


DEAF = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
"""Of a QEMU before 3.0, or of a socket that has no thread of its own: nothing is taken out of band."""


def stand_still(server: MonitorServer) -> None:
    """Answer nothing, as a main loop that waits for a page."""


def refuse(desc: str, kind: str = "GenericError") -> dict[str, Any]:
    """A reply that is an error."""
    return {"error": {"class": kind, "desc": desc}}


class MonitorServer:
    """Serves one client at a time, and several one after the other.

    :param answers: A whole reply without its id by the command's name, or what is to be done instead of one.
    """

    def __init__(
        self,
        path: Path,
        answers: Mapping[str, Answer] | None = None,
        greeting: bytes = GREETING,
    ) -> None:
        self.path = str(path)
        self.asked: list[dict[str, Any]] = []
        self._answers = dict(answers or {})
        self._greeting = greeting
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._client: socket.socket | None = None
        self._held: list[Mapping[str, Any]] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MonitorServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self._thread.join(5)
        self._server.close()

    def hang_up(self) -> None:
        """End the connection, as a QEMU that dies does."""
        if self._client is not None:
            with suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def say(self, message: Mapping[str, Any]) -> None:
        """Send a message of its own."""
        assert self._client is not None
        if self._held is not None:
            self._held.append(message)
            return
        self._client.sendall(json.dumps(message).encode() + b"\r\n")

    def hold_back(self) -> None:
        """Let nothing through that it says, as a link that is dead for a while."""
        self._held = []

    def pass_on(self) -> None:
        """Let all of that through, and what comes."""
        held, self._held = self._held or [], None
        for message in held:
            self.say(message)

    def commands(self) -> list[str]:
        """Those that were asked so far, in band or out of it."""
        return [_name_of(each) for each in self.asked]

    def sent(self, command: str) -> list[dict[str, Any]]:
        """How a command was asked, each time."""
        return [each for each in self.asked if _name_of(each) == command]

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self._client, _ = self._server.accept()
                with self._client, suppress(OSError):
                    self._serve(self._client)

    def _serve(self, client: socket.socket) -> None:
        client.sendall(self._greeting)
        for message in _messages(client):
            self.asked.append(message)
            answer = self._answers.get(_name_of(message), {"return": {}})
            if callable(answer):
                answer(self)
            else:
                self.say({**answer, **_id_of(message)})


def _name_of(message: Mapping[str, Any]) -> str:
    """Of a command, in band or out of it."""
    return str(message.get("execute") or message["exec-oob"])


def _messages(client: socket.socket) -> Iterator[dict[str, Any]]:
    """One JSON text after the other, with nothing between them that tells where one ends."""
    text, decoder = "", json.JSONDecoder()
    while received := client.recv(4096):
        text += received.decode()
        while text := text.lstrip():
            try:
                message, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest is on its way
            text = text[end:]
            yield message


def _id_of(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": message["id"]} if "id" in message else {}
