"""A readline of ours that is to its user what virsh's is: history, completion, pastes.

Source: libvirt ``tools/vsh.c`` ``vshReadlineInit``, ``vshReadlineDeinit`` (9.0.0).
"""

from __future__ import annotations

import os
import readline
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from libvirt_postcopy.virsh.batch import Connection
from libvirt_postcopy.virsh.complete import candidates
from libvirt_postcopy.virsh.strings import split

__all__ = ["completion", "history", "use_bracketed_paste"]

_LONGEST, _USUAL = 500_000, 500
"""Lines of history that virsh keeps at most, and if it is not told."""


def use_bracketed_paste() -> None:
    """Let what is pasted wait for Enter, unless the user's ``inputrc`` says otherwise.

    Since readline 8.1 that is what readline does by itself.  Python turns it off, before and after it reads ``inputrc``,
    and so that is read once more.
    """
    readline.parse_and_bind("set enable-bracketed-paste on")
    with suppress(OSError), _inputrc().open(errors="surrogateescape") as file:
        for line in file:
            readline.parse_and_bind(line.strip())


def _inputrc() -> Path:
    """The file that readline reads, if it is there."""
    named = os.environ.get("INPUTRC")
    own = Path(named or "~/.inputrc").expanduser()
    return own if named or os.access(own, os.R_OK) else Path("/etc/inputrc")


@contextmanager
def history() -> Iterator[None]:
    """Have virsh's history, and leave it with what has come."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = folder / "libvirt" / "virsh" / "history"
    readline.set_auto_history(False)
    with suppress(OSError):
        readline.read_history_file(file)
    yield
    text = os.environ.get("VIRSH_HISTSIZE", "")
    length = int(text) if text.isascii() and text.isdigit() else _USUAL
    readline.set_history_length(min(length, _LONGEST))
    with suppress(OSError):
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        readline.write_history_file(file)


@contextmanager
def completion(connection: Callable[[], Connection]) -> Iterator[None]:
    """Complete what is typed.

    :param connection: Says where the names of domains come from.
    """
    found: list[str] = []

    def complete(word: str, state: int) -> str | None:
        if state == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()]
            words = [*split(before)[-1].words, word]
            found[:] = candidates(words, connection().given)
            if len(found) == 1 and not found[0].endswith(":"):
                found[0] += " "  # as readline does if it is not Python's
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n`@$><=;|&{(")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    yield
    readline.set_completer(None)
