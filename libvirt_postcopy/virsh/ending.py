"""What virsh prints after a command, whether it went well or not."""

from __future__ import annotations

import time
from collections.abc import Callable

from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.refusals import NotBegunError

__all__ = ["Ending"]


class Ending:
    """The blank line or the time, which virsh prints after an error too.

    Source: libvirt ``tools/vsh.c`` ``vshCommandRun`` (9.0.0).

    :param write: Writes to standard output.
    """

    def __init__(self, options: Globals, write: Callable[[str], None]) -> None:
        self._options = options
        self._write = write
        self._began = time.monotonic()
        self._is_due = True

    def after(self, run: Callable[[], int]) -> int:
        """Run a command, and note if it was not come to."""
        try:
            return run()
        except NotBegunError:
            self._is_due = False
            raise

    def print(self) -> None:
        """Print it."""
        if not self._is_due:
            return
        if self._options.is_timed:  # -q does not silence it
            elapsed_ms = (time.monotonic() - self._began) * 1000
            self._write(f"\n(Time: {elapsed_ms:.3f} ms)\n\n")
        elif not self._options.is_quiet:
            self._write("\n")
