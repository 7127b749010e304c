"""What is kept from the real virsh: a resume that crashes the destination's daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from libvirt_postcopy.errors import LibvirtError, PostcopyBroken, UsageError
from libvirt_postcopy.virsh.grammar import Globals, HelpWanted
from libvirt_postcopy.virsh.verbs import VERBS, read

__all__ = ["is_resume", "refuse_crash"]

_RESUME = "--postcopy-resume"


def is_resume(words: Sequence[str]) -> bool:
    """Whether a command may be virsh's own resume, as far as that can be told without reading it."""
    return tuple(words[:1]) == ("migrate",) and _RESUME in words


def refuse_crash(commands: Iterable[Sequence[str]], options: Globals) -> None:
    """Refuse virsh's own resume where the destination's daemon does not survive it.

    A line that cannot be read is virsh's to complain of, a destination that this client cannot reach is its to try.

    :raises PostcopyBroken: If it does not.
    """
    for words in commands:
        if is_resume(words):
            _check(words, options)


def _check(words: Sequence[str], options: Globals) -> None:
    try:
        given = read(VERBS["migrate"], words)
    except (HelpWanted, UsageError):
        return
    if "postcopy-resume" not in given:
        return
    # Most lines pass through and need none of these.
    from libvirt_postcopy.virsh.split import recover_command

    obstacle = _obstacle(given["desturi"], options)
    if obstacle:
        destination = given["desturi"]
        command = recover_command(options.connect, given["domain"], destination)
        raise PostcopyBroken(
            f"not sent: {obstacle}; destroy, resume and reset neither half of the guest",
            side="destination",
            cure=f"{command} goes round it where there is a way; else upgrade libvirt there, which QEMU survives",
        )


def _obstacle(uri: str, options: Globals) -> str:
    """Why the daemon at a URI must not be told to resume; empty also where that cannot be told.

    Who has to log in there at a terminal is asked once more by virsh; what is piped is virsh's alone, answers or lines.
    """
    from libvirt_postcopy.obstacles import crash_of
    from libvirt_postcopy.vir import calls
    from libvirt_postcopy.virsh.daemon import login

    calls.silence_libvirt()
    if not calls.listens(uri, _ANSWER_S):
        return ""
    try:
        # Only looks, and polkit asks nobody for that.
        open_ = login(options).open_readonly if _is_at_terminal() else None
        connection = calls.open_connection(uri, "destination", open_=open_)
    except LibvirtError:
        return ""
    try:
        with calls.refusals("destination"):
            return crash_of(connection.getLibVersion())
    except LibvirtError:
        return ""
    finally:
        calls.close_connections([connection])


def _is_at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


_ANSWER_S = 2.0
