"""A link between two QEMUs that can be cut and stalled."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

__all__ = ["Link"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_CHUNK = 1 << 16
_ACCEPT_S = 2.0


class Link:
    """Listens on a port of its own and passes on what it gets, both ways."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        """:param target: Where the destination listens: host and port, or a path."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._may_pass = {True: threading.Event(), False: threading.Event()}
        for each in self._may_pass.values():
            each.set()
        self._is_closed = False
        self._is_served = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Reset every connection; later ones are served again."""
        # QEMU is connected as soon as the kernel has accepted for us, which may be before we know.
        self._is_served.wait(_ACCEPT_S)
        self._reset()

    def _reset(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, []
            self._is_served.clear()
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            end.close()
        self.flow()  # last: what a stall has held must not arrive before the end does

    def stall(self, *, answers_only: bool = False) -> None:
        """Pass nothing on; the connections stay.

        :param answers_only: Only what comes from the destination is held.
        """
        self._may_pass[False].clear()
        if not answers_only:
            self._may_pass[True].clear()

    def flow(self) -> None:
        """End a stall."""
        for each in self._may_pass.values():
            each.set()

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._reset()

    def _serve(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            with self._lock:
                self._ends += [near, far]
                self._is_served.set()
            for source, sink, forth in ((near, far, True), (far, near, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, forth), daemon=True
                ).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            return far
        return socket.create_connection(self._target)

    def _pump(self, source: socket.socket, sink: socket.socket, forth: bool) -> None:
        try:
            while not self._is_closed:
                data = source.recv(_CHUNK)
                self._may_pass[forth].wait()
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
