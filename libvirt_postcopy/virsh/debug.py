"""What virsh says of a command where it is debugged (``-d``, ``VIRSH_DEBUG``), said of ours.

virsh 12.8 says nothing of most of its commands any more; who debugs ours gets all of it.

Source: libvirt ``tools/vsh.c`` ``vshDebug``, ``vshCommandParse``, ``vshInitDebug`` (9.0.0).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from libvirt_postcopy.virsh.grammar import LEAST_DEBUG, Globals, Kind, Option
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["Debug", "level_of"]

_NOTICE = (logging.INFO + logging.WARNING) // 2
_LEVELS = (logging.DEBUG, logging.INFO, _NOTICE, logging.WARNING, logging.ERROR)
"""virsh's levels, 0 to 4, as Python has them."""

_NAMES = ("DEBUG", "INFO", "NOTICE", "WARNING", "ERROR")
_INFO = 1


def level_of(options: Globals, environ: Mapping[str, str]) -> int:
    """From which level on something is said; the environment counts where no option says it."""
    text = environ.get("VIRSH_DEBUG", "")
    if options.debug == LEAST_DEBUG and text in map(str, range(LEAST_DEBUG)):
        return int(text)
    return options.debug


class Debug:
    """Says it on standard output, and in virsh's log.

    :param level: What is below it is not said.
    """

    def __init__(self, terminal: Terminal, level: int) -> None:
        self._terminal = terminal
        self._level = level

    def tell_string(self, string: str) -> None:
        """Tell of a command string."""
        self._tell(_INFO, f'commands: "{string}"')

    def tell_options(
        self, verb: str, options: Sequence[Option], found: Mapping[str, str]
    ) -> None:
        """Tell of the options of a command, as far as it could be read."""
        flags = {option.name for option in options if option.kind is Kind.BOOL}
        for name, text in found.items():
            what = f"{name}(bool): (none)" if name in flags else f"{name}(optdata): {text}"  # fmt: skip
            self._tell(_INFO, f"{verb}: {what}")

    @contextmanager
    def telling(self, verb: str) -> Iterator[None]:
        """Tell what the package logs meanwhile."""
        if self._level >= LEAST_DEBUG:
            yield
            return
        package = logging.getLogger("libvirt_postcopy")
        handler = _Handler(self._tell, verb)
        before = package.level
        package.addHandler(handler)
        package.setLevel(_LEVELS[self._level])
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(before)

    def _tell(self, level: int, text: str) -> None:
        if level >= self._level:
            self._terminal.debug(_NAMES[level], text)


class _Handler(logging.Handler):
    def __init__(self, tell: Callable[[int, str], None], verb: str) -> None:
        super().__init__()
        self._tell = tell
        self._verb = verb

    def emit(self, record: logging.LogRecord) -> None:
        level = max(n for n, least in enumerate(_LEVELS) if record.levelno >= least)
        self._tell(level, f"{self._verb}: {record.getMessage()}")
