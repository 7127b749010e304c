"""The monitor on a unix socket, spoken to with ``qemu.qmp``.

That library is asynchronous.  Its loop has a thread of its own here, and a call waits for it, but never longer than
it says.

QEMU's main loop may stand still for a page of a broken post-copy: a vCPU or a device waits for it with QEMU's big lock
held.  Only what is sent out of band is answered then, and only over a connection that was made before, since
``qmp_capabilities`` is answered by the main loop.

So a connection outlives an answer that is late, and a link that is dead for a while: it is silent then, not lost.  Each
answer finds its question by the question's id, however late it is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Any

from qemu.qmp import (
    ConnectError as NotConnected,
)
from qemu.qmp import (
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorLost,
    MonitorSilent,
    MonitorStuck,
    ProtocolError,
)

__all__ = ["ANSWER_S", "CONNECT_S", "Hear", "SocketMonitor"]

LOG = logging.getLogger("libvirt_postcopy.qmp")

CONNECT_S = 5.0
"""How long a monitor may take to greet: it serves one client at a time, and another one may have it."""

ANSWER_S = 10.0
"""How long a reply may take.  QEMU 7.2 answers only between two passes while the link is full."""

_CLOSE_S = 1.0

_OUT_OF_BAND = frozenset(("migrate-pause", "migrate-recover"))
"""What brings a broken migration back, and QEMU takes while its main loop stands still (``allow-oob`` since 3.0)."""

_ECHO = "query-yank"
"""Sent out of band it changes nothing, and waits for nobody; before QEMU 6.0 its refusal does as well."""

_IS_LOST = (QMPError, OSError, EOFError, CancelledError)

Hear = Callable[[str, Mapping[str, Any]], None]
"""Is told an event's name and data, on the loop's thread; must not block."""


class SocketMonitor:
    """A QEMU's monitor on a unix socket.

    :param path: Of the socket, on this machine.
    :param hear: Is told each event.
    """

    def __init__(
        self,
        path: str,
        side: str,
        *,
        hear: Hear | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.side = side
        self._path = path
        self._hear = hear
        self._answer_s = answer_s
        self._client: QMPClient | None = None
        self._late: list[Future[Any]] = []  # not answered in time by the main loop
        self._echo: Future[Any] | None = None  # the open question of answers()
        self._counting = threading.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_note)  # asyncio's own prints them
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"postcopy-qmp-{side}", daemon=True
        )
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as this end can tell."""
        client = self._client
        return client is not None and client.runstate is Runstate.RUNNING

    @property
    def has_out_of_band(self) -> bool:
        """Whether QEMU takes some commands while its main loop stands still; agreed on where it offers that."""
        client = self._client
        greeting = None if client is None else client.greeting
        return greeting is not None and "oob" in greeting.QMP.capabilities

    def connect(self, timeout_s: float = CONNECT_S) -> None:
        """Connect, or connect anew.

        :raises ConnectError: If nobody listens there, or nobody greets in time.
        :raises MonitorStuck: If QEMU greets, and then answers nothing.
        :raises ProtocolError: If it is no monitor.
        """
        self._disconnect()
        made = self._in_loop(self._connect(timeout_s))
        try:
            self._client = made.result(timeout_s + _CLOSE_S)
        except (NotYet, asyncio.TimeoutError) as error:
            made.cancel()  # or it would have QEMU's only place later, for nobody
            raise ConnectError(
                f"QEMU's monitor at {self._path} does not greet within {timeout_s:g} s",
                side=self.side,
                cure="another client may have it: it serves one at a time",
            ) from error
        except NotConnected as error:
            raise self._not_connected(error) from error

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """See :class:`libvirt_postcopy.qmp.commands.Monitor`.

        Behind eight commands that are not answered QEMU reads nothing, out of band or not: so no other is sent while
        the main loop owes the answer to one that was waited for in vain.

        :raises MonitorSilent: If there is no answer in time, or that of another one is owed.
        """
        is_oob = command in _OUT_OF_BAND and self.has_out_of_band
        owed = None if is_oob else self._owed()
        if owed is not None and not self._is_answered(owed, self._answer_s):
            raise MonitorSilent(
                f"QEMU was not asked {command}: it has not answered what it was asked before",
                side=self.side,
            )
        question = self._ask(command, arguments, oob=is_oob)
        try:
            return question.result(self._answer_s)
        except ExecuteError as error:
            raise CommandError(
                command, error.error_class, str(error), side=self.side
            ) from error
        except NotYet as error:
            if not is_oob:
                self._note_late(question)
            raise MonitorSilent(
                f"QEMU has not answered {command} within {self._answer_s:g} s",
                side=self.side,
            ) from error
        except _IS_LOST as error:
            raise self._lost(command, error) from error

    def takes_commands(self, timeout_s: float) -> bool:
        """Whether QEMU's main loop answers; false if it has not within the time.

        It answers one after the other: where it owes an answer, it is not asked anew.

        :raises MonitorLost: If the connection is gone.
        """
        question = self._owed() or self._ask("query-status")
        is_answered = self._is_answered(question, timeout_s)
        if not is_answered:
            self._note_late(question)
        return is_answered

    def answers(self, timeout_s: float) -> bool:
        """Whether the monitor does, whatever the main loop does where it takes commands out of band.

        :raises MonitorLost: If the connection is gone.
        """
        if not self.has_out_of_band:
            return self.takes_commands(timeout_s)
        with self._counting:
            if self._echo is None or self._echo.done():
                self._echo = self._ask(_ECHO, oob=True)
            echo = self._echo
        return self._is_answered(echo, timeout_s)

    def close(self) -> None:
        """Disconnect; the monitor cannot be used any more."""
        if self._loop.is_closed():
            return
        self._disconnect()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._loop.is_running():
            self._loop.close()

    def _ask(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
    ) -> Future[Any]:
        """Send a command.  What is late is not cancelled: its reply must still find somebody who takes it."""
        client = self._client
        if client is None:
            raise MonitorLost(
                f"QEMU was not asked {command}: there is no connection", side=self.side
            )
        sent = dict(arguments) if arguments else None
        return self._in_loop(client.execute(command, sent, oob=oob))

    def _is_answered(self, question: Future[Any], timeout_s: float) -> bool:
        try:
            question.result(timeout_s)
        except NotYet:
            return False
        except ExecuteError:
            return True
        except _IS_LOST as error:
            raise self._lost("whether it answers", error) from error
        return True

    def _lost(self, what: str, error: BaseException) -> MonitorLost:
        return MonitorLost(f"QEMU was not reached with {what}: {error}", side=self.side)

    def _owed(self) -> Future[Any] | None:
        """A command that the main loop has not answered in time, nor since."""
        with self._counting:
            self._late = [each for each in self._late if not each.done()]
            return self._late[-1] if self._late else None

    def _note_late(self, question: Future[Any]) -> None:
        with self._counting:
            if question not in self._late:
                self._late.append(question)

    def _in_loop(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Let the loop do it.

        :raises MonitorLost: If this one was closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise MonitorLost("it is closed", side=self.side) from error

    async def _connect(self, timeout_s: float) -> QMPClient:
        client = QMPClient(self.side)  # here, as before Python 3.10 it takes its loop
        client.logger.addFilter(_is_no_error)
        try:
            await asyncio.wait_for(client.connect(self._path), timeout_s)
        except asyncio.TimeoutError as error:
            if client.greeting is None:
                raise
            raise MonitorStuck(
                f"QEMU greets at {self._path} and takes no command: its main loop stands still",
                side=self.side,
                cure="only a monitor that was open before that can tell it to recover",
            ) from error
        self._listener = self._loop.create_task(self._listen(client))
        return client

    async def _listen(self, client: QMPClient) -> None:
        async for event in client.events:  # which would gather for ever
            data = event.get("data", {})
            if self._hear is not None:
                self._hear(
                    str(event["event"]), data if isinstance(data, Mapping) else {}
                )

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        with self._counting:
            self._late, self._echo = [], None
        if client is not None:
            # What had broken the connection is told once more here.
            with suppress(StateError, NotYet, MonitorLost, *_IS_LOST):
                self._in_loop(self._leave(client)).result(_CLOSE_S)

    async def _leave(self, client: QMPClient) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
        await client.disconnect()

    def _not_connected(self, error: NotConnected) -> ConnectError | ProtocolError:
        cause = error.exc
        text = f"{type(cause).__name__}: {cause}".rstrip(": ")
        if isinstance(cause, (OSError, EOFError)):
            return ConnectError(
                f"QEMU's monitor at {self._path} cannot be reached: {text}",
                side=self.side,
            )
        return ProtocolError(
            f"what listens at {self._path} is no monitor of QEMU's: {text}",
            side=self.side,
        )


def _is_no_error(record: logging.LogRecord) -> bool:
    """What fails is raised, and somebody who tries again must not fill a log."""
    return record.levelno < logging.ERROR


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    LOG.debug("%s: %r", context.get("message"), context.get("exception"))
