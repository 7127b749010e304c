"""Logging in to a daemon that asks who we are, at the terminal as virsh does.

Source: libvirt ``src/libvirt.c`` ``virConnectAuthCallbackDefault``, ``tools/virsh.c`` ``virshConnect``,
``src/util/virpolkit.c`` ``virPolkitAgentCreate`` (9.0.0).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from typing import Any, cast

import libvirt

from libvirt_postcopy.vir.protocols import Connection

__all__ = ["Login"]

_TYPED = (
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_ECHOPROMPT,
    libvirt.VIR_CRED_REALM,
)
_HIDDEN = (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT)
_TYPES = [*_TYPED, *_HIDDEN, libvirt.VIR_CRED_EXTERNAL]

_TYPE, _PROMPT, _CHALLENGE, _DEFAULT, _RESULT = range(5)  # of a credential

_TRIES = 5


class Login:
    """Opens connections; who has answered for a host is not asked again for a further one to it.

    :param has_agent: Whether polkit's own agent may ask, where polkit decides and no other agent is there.
    """

    def __init__(self, *, has_agent: bool = True) -> None:
        self._has_agent = has_agent
        self._answers: dict[tuple[str | None, int, str], str] = {}
        self._raised: BaseException | None = None

    def open(self, uri: str | None) -> Connection:
        """Open a connection that may do everything.

        :raises libvirtError: If that cannot be.
        """
        agent: subprocess.Popen[bytes] | None = None
        failed = 0
        try:
            while True:
                try:
                    return self._open(uri)
                except libvirt.libvirtError as error:
                    code = _polkits(error)
                    if code == libvirt.VIR_ERR_AUTH_UNAVAILABLE and agent is None:
                        agent = self._start_agent()
                        if agent is None:
                            raise
                    elif code == libvirt.VIR_ERR_AUTH_FAILED and failed + 1 < _TRIES:
                        failed += 1
                    else:
                        raise
        finally:
            if agent is not None:
                agent.terminate()
                agent.wait()

    def open_readonly(self, uri: str | None) -> Connection:
        """Open a connection that may only read.

        :raises libvirtError: If that cannot be.
        """
        return self._open(uri, libvirt.VIR_CONNECT_RO)

    def _open(self, uri: str | None, flags: int = 0) -> Connection:
        auth = [_TYPES, self._answer, uri]
        self._raised = None
        try:
            connection = cast(Connection, libvirt.openAuth(uri, auth, flags))
        except libvirt.libvirtError:
            self._forget(uri)
            if self._raised is not None:
                raise self._raised from None
            raise
        if uri is None:
            self._file(connection)
        return connection

    def _file(self, connection: Connection) -> None:
        """Keep the answers also under the URI that libvirt itself has chosen: further connections name it."""
        with suppress(libvirt.libvirtError):
            chosen = connection.getURI()
            for (uri, kind, prompt), answer in list(self._answers.items()):
                if uri is None:
                    self._answers[chosen, kind, prompt] = answer

    def _forget(self, uri: str | None) -> None:
        for key in [key for key in self._answers if key[0] == uri]:
            del self._answers[key]

    def _answer(self, credentials: list[list[Any]], uri: str | None) -> int:
        """Answer libvirt-python, which would only print what a signal's handler raises meanwhile."""
        try:
            return self._fill_in(credentials, uri)
        except BaseException as error:
            self._raised = error
            return -1

    def _fill_in(self, credentials: list[list[Any]], uri: str | None) -> int:
        for each in credentials:
            if each[_TYPE] == libvirt.VIR_CRED_EXTERNAL:
                if each[_CHALLENGE] != "PolicyKit":
                    return -1
                continue  # polkit asks by itself
            key = (uri, each[_TYPE], str(each[_PROMPT]))
            if key not in self._answers:
                answer = _ask(*key[1:])
                if answer is None:
                    return -1
                self._answers[key] = answer
            each[_RESULT] = self._answers[key] or each[_DEFAULT] or ""
        return 0

    def _start_agent(self) -> subprocess.Popen[bytes] | None:
        """Start polkit's agent for us, and wait until it is there."""
        if not self._has_agent or sys.stdin is None or not sys.stdin.isatty():
            return None
        told, tell = os.pipe()
        words = ["pkttyagent", "--process", str(os.getpid()), "--notify-fd", str(tell)]
        try:
            agent = subprocess.Popen([*words, "--fallback"], pass_fds=[tell])
        except OSError:
            agent = None
        os.close(tell)
        if agent is not None:
            select.select([told], [], [])  # it closes its end when it is there
        os.close(told)
        return agent


def _ask(kind: int, prompt: str) -> str | None:
    """Ask; None if Ctrl-C was the answer, and has not ended us."""
    print(f"{prompt}: ", end="", flush=True)
    if kind in _HIDDEN and sys.stdin is not None and sys.stdin.isatty():
        return _read_hidden()
    return sys.stdin.readline().rstrip("\n") if sys.stdin is not None else ""


def _read_hidden() -> str | None:
    """Read what is not to be shown.

    As at virsh's own question no key makes a signal then: who is ended or stopped would leave a terminal that shows
    nothing.  Ctrl-C ends the answer instead, and is sent when the terminal is as it was.
    """
    before, hidden = termios.tcgetattr(0), termios.tcgetattr(0)
    interrupt = before[6][termios.VINTR]
    hidden[3] &= ~(termios.ECHO | termios.ISIG)
    hidden[6][termios.VEOL] = interrupt
    termios.tcsetattr(0, termios.TCSAFLUSH, hidden)
    try:
        typed = os.read(0, 4096)
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
    print(flush=True)
    if typed.endswith(interrupt):
        signal.raise_signal(signal.SIGINT)
        return None
    return os.fsdecode(typed).rstrip("\n")


def _polkits(error: libvirt.libvirtError) -> int | None:
    """The code of an error that polkit has made."""
    is_its = error.get_error_domain() == libvirt.VIR_FROM_POLKIT
    return error.get_error_code() if is_its else None
