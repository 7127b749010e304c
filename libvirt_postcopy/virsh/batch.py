"""A command string with a command of ours among virsh's.

virsh reads all of a string before it runs anything of it, and so do we: the real virsh is asked whether it can
read its own part.  Then each stretch of virsh's commands is run by a virsh of its own; what ``connect`` has
changed is told to the next.

One virsh for all of a string, and so one connection, would cost what makes it virsh (seen with 9.0.0):

- A virsh that is fed command by command ends with 0 even if ``domstate nosuch`` was the last, and nothing else tells what
  became of a command; it takes ``cd``, an error in a string; it has our pipe where ``define /dev/stdin`` wants the
  user's standard input, and prints a prompt and each line.
- A virsh that has the whole string can be held up where our commands stand, by an ``echo --err`` of more than a pipe of ours
  holds, and keeps its connection and status.  But what it says on standard error comes through us then, in no
  certain order with what it prints on the same terminal; Ctrl-C, meant for a migration of ours, ends the virsh that
  waits; and the filler is in its log.

Where lines are fed to virsh anyway (:mod:`libvirt_postcopy.virsh.feed`, ``console``) one virsh runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    CommandLine,
    Globals,
    HelpWanted,
    Kind,
    MissingError,
    Option,
    read_command,
)
from libvirt_postcopy.virsh.real import ask_virsh, exec_virsh, run_virsh
from libvirt_postcopy.virsh.strings import Command

__all__ = ["Connection", "Runner", "cannot_read", "is_end", "run", "stretches"]


class Runner(Protocol):
    """What runs our commands."""

    def claims(self, words: Sequence[str]) -> bool: ...

    def complain(self, complaints: Sequence[str]) -> None: ...

    def mistake(self, words: Sequence[str]) -> UsageError | None: ...

    def run(self, words: Sequence[str], now: Connection) -> int: ...

    def after(self) -> None: ...

    def can_connect(self, options: Globals) -> bool: ...


_CONNECT = (
    Option("name", Kind.STRING, "", is_positional=True),
    Option("readonly", Kind.BOOL, ""),
)


@dataclass(frozen=True)
class Connection:
    """Which connection virsh's commands and ours are for.

    :ivar given: virsh's own options.
    """

    options: Globals
    given: tuple[str, ...]

    def after(self, words: Sequence[str]) -> Connection:
        """What it is after a command of virsh's that has gone well."""
        if words[:1] != ("connect",):
            return self
        try:
            found = read_command("connect", _CONNECT, words[1:])
        except (HelpWanted, UsageError):
            return self
        if not found:
            return self
        uri = found.get("name", self.options.connect)
        readonly = "readonly" in found
        kept = [
            word
            for word in self.given
            if word != "--readonly" and not word.startswith("--connect=")
        ]
        more = [] if uri is None else [f"--connect={uri}"]
        more += ["--readonly"] if readonly else []
        options = replace(self.options, connect=uri, is_readonly=readonly)
        return Connection(options, (*kept, *more))


def is_end(words: Sequence[str]) -> bool:
    """Whether virsh ends with this command."""
    return words[:1] in (("quit",), ("exit",))


def run(commands: Sequence[Command], line: CommandLine, ours: Runner) -> int:
    """Run a command string.

    :return: The exit status, which is that of the last command.
    :raises UsageError: If it cannot be read; nothing is run.
    """
    unreadable = cannot_read(commands, line.given, ours)
    if unreadable:
        exec_virsh([*line.given, unreadable])
    now = Connection(line.options, line.given)
    status = 0
    for is_ours, stretch in stretches(commands, ours):
        if not is_ours:
            status = run_virsh([*now.given, "".join(each.text for each in stretch)])
            last = stretch[-1].words
            if is_end(last):
                break
            now = now.after(last) if status == 0 else now
            continue
        for each in stretch:
            status = ours.run(each.words, now)
            ours.after()
    return status


def stretches(
    commands: Sequence[Command], ours: Runner
) -> Iterator[tuple[bool, list[Command]]]:
    """Commands that are run together.

    What changes the connection, or ends virsh, is the last of them where something of ours comes later.
    """
    given = [command for command in commands if command.words]
    groups = [
        (is_ours, list(group))
        for is_ours, group in groupby(given, lambda each: ours.claims(each.words))
    ]
    for is_ours, group in groups[:-1]:
        stretch: list[Command] = []
        for command in group:
            stretch.append(command)
            if is_end(command.words) or command.words[0] == "connect":
                yield is_ours, stretch
                stretch = []
        if stretch:
            yield is_ours, stretch
    yield from groups[-1:]


_BREAK = "\n\\"
"""Cannot be read, so that nothing of a string is run; where it is the first such thing, all before it can be."""

_BROKEN = b"error: dangling \\"


def cannot_read(commands: Sequence[Command], given: Sequence[str], ours: Runner) -> str:
    """Find the first mistake in a string, before anything of it is run.

    :param given: virsh's own options.
    :return: What is to be given to virsh, to complain of and to run nothing of; empty if there is nothing.
    :raises UsageError: If the mistake is in a command of ours.
    """
    theirs, mistake = _readable(commands, ours)
    if theirs:
        probe = theirs + _BREAK
        said = ask_virsh([*given, probe], in_english=True)[2]
        if _BROKEN not in said.splitlines():
            return probe
    if isinstance(mistake, MissingError):
        ours.complain(mistake.complaints[:-1])
        raise UsageError(mistake.complaints[-1])
    if mistake is not None:
        raise mistake
    return ""


def _readable(
    commands: Sequence[Command], ours: Runner
) -> tuple[str, UsageError | None]:
    """virsh's part up to the first mistake that we see, and that."""
    theirs = ""
    for command in commands:
        mistake = ours.mistake(command.words) or command.error
        if mistake is not None:
            return theirs, mistake
        if not ours.claims(command.words):
            theirs += command.closed
    return theirs, None
