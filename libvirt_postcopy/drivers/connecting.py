"""Whether the source's QEMU may still be connecting, after a resume of which it has said nothing.

QEMU connects in the background, and up to 9.0 a resume leaves it ``postcopy-paused``, silently, until a connection
stands; one that fails is not announced either.  On a network that swallows packets the kernel tries for two minutes.  A
resume sent meanwhile makes a second connection beside it, and when packets flow again both stand: the first to do so
recovers the migration, and of the other one the source's QEMU aborts (seen with 7.2: ``migrate_fd_connect: Assertion
`!s->cleanup_bh' failed``).  Then the guest is lost, so there is one at a time.  From 9.1 on QEMU says that it connects, and
refuses a second resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import CommandError, ConnectError, MonitorBusy

__all__ = ["Connecting"]

_CONNECTING_S = 150.0
"""How long it may take at most: Linux gives a connection up after 127 s by default (``net.ipv4.tcp_syn_retries``), and QEMU is
given one numeric address."""

_PENDING = (
    "QEMU may still be connecting, and may not survive another attempt beside that one"
)


class Connecting:
    """Whether a resume may still make a connection.  May be used by several threads.

    :param tell: Takes a line for the operator, the first time that another one must wait.
    """

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self._tell = tell
        self._has_told = False
        self._since: float | None = None

    @property
    def may_be(self) -> bool:
        """It was sent not long ago, and nothing was heard since."""
        since = self._since
        return since is not None and time.monotonic() - since < _CONNECTING_S

    def assume_tried(self, uri: str, ago_s: float = 0.0) -> None:
        """A ``migrate`` that resumes may have been sent.

        :param uri: Where to; a unix socket takes a connection at once, or not at all.
        :param ago_s: Seconds before now, by a clock that may have been set since.
        """
        self._has_told = False
        is_slow = not uri.startswith("unix:")
        self._since = time.monotonic() - max(ago_s, 0.0) if is_slow else None

    @contextmanager
    def trying(self, uri: str) -> Iterator[None]:
        """Around the ``migrate`` that resumes: whatever becomes of its answer, QEMU may be connecting then.

        :param uri: Where to.
        """
        self.assume_tried(uri)  # what is announced may be heard before the answer
        try:
            yield
        except (CommandError, ConnectError, MonitorBusy):  # it was not sent, or refused
            self._since = None
            raise

    def hear(self, status: str | None) -> None:
        """Take what the source's QEMU says: anything new means that the connection stands, or has failed."""
        if status and status != Status.POSTCOPY_PAUSED:
            self._since = None

    def require_over(self) -> None:
        """Let no other resume be sent meanwhile.

        :raises PostcopyError: If QEMU may be connecting.
        """
        if not self.may_be:
            return
        if not self._has_told:
            self._has_told = True
            self._tell(
                f"the source's {_PENDING}: waiting for that, {_CONNECTING_S:.0f} s at most"
            )
        raise PostcopyError(f"its {_PENDING}", side="source")
