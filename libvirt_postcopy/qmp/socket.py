"""The monitor on a unix socket, spoken to with ``qemu.qmp``.

That library is asynchronous.  Its loop has a thread of its own here, and a call waits for it, but never longer than
it says.

QEMU's main loop may stand still for a page of a broken post-copy: a vCPU or a device waits for it with QEMU's big lock
held.  Only what is sent out of band is answered then, and only over a connection that was made before, since
``qmp_capabilities`` is answered by the main loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
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
        self._question: Future[Any] | None = None  # the open one of takes_commands()
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
        try:
            self._client = self._wait(self._connect(timeout_s), timeout_s + _CLOSE_S)
        except (NotYet, asyncio.TimeoutError) as error:
            raise ConnectError(
                f"QEMU's monitor at {self._path} does not greet within {timeout_s:g} s",
                side=self.side,
                cure="another client may have it: it serves one at a time",
            ) from error
        except NotConnected as error:
            raise self._not_connected(error) from error

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """See :class:`libvirt_postcopy.qmp.commands.Monitor`."""
        client = self._client
        if client is None:
            raise MonitorLost(
                f"QEMU was not asked {command}: there is no connection", side=self.side
            )
        sent = dict(arguments) if arguments else None
        is_oob = command in _OUT_OF_BAND and self.has_out_of_band
        try:
            asked = client.execute(command, sent, oob=is_oob)
            return self._wait(asked, self._answer_s)
        except ExecuteError as error:
            raise CommandError(
                command, error.error_class, str(error), side=self.side
            ) from error
        except NotYet as error:
            raise MonitorLost(
                f"QEMU has not answered {command} within {self._answer_s:g} s",
                side=self.side,
            ) from error
        except (QMPError, OSError, EOFError) as error:
            raise MonitorLost(
                f"QEMU was not reached with {command}: {error}", side=self.side
            ) from error

    def takes_commands(self, timeout_s: float) -> bool:
        """Whether QEMU's main loop answers; false if it has not within the time.

        One question at a time is open: behind eight that are not answered QEMU reads nothing, out of band or not.

        :raises MonitorLost: If the connection is gone.
        """
        client = self._client
        if client is None:
            raise MonitorLost("there is no connection", side=self.side)
        if self._question is None or self._question.done():
            self._question = asyncio.run_coroutine_threadsafe(
                client.execute("query-status"), self._loop
            )
        try:
            self._question.result(timeout_s)
        except NotYet:
            return False
        except (QMPError, OSError, EOFError) as error:
            raise MonitorLost(f"QEMU was not reached: {error}", side=self.side) from error  # fmt: skip
        return True

    def close(self) -> None:
        """Disconnect; the monitor cannot be used any more."""
        self._disconnect()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._loop.is_running():
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        """Let the loop do it.  What is late is not cancelled: its reply must still find somebody who takes it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

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
        self._question = None
        if client is not None:
            # What had broken the connection is told once more here.
            with suppress(QMPError, StateError, OSError, EOFError, NotYet):
                self._wait(self._leave(client), _CLOSE_S)

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
