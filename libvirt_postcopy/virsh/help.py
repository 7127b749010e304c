"""Our part of virsh's help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    CommandLine,
    HelpWanted,
    Kind,
    Option,
    parse_command,
)
from libvirt_postcopy.virsh.verbs import VERBS, Verb

__all__ = ["help_text", "is_for_overview", "overview", "topic"]

_COMMAND = Option("command", Kind.STRING, "name of command", is_positional=True)


def is_for_overview(line: CommandLine) -> bool:
    """Whether virsh lists all its commands, so that ours belong below."""
    return line.asks_for_usage or line.words == ("help",)


def topic(words: Sequence[str]) -> Verb | None:
    """Say which verb of ours ``help`` is asked of; None for one of virsh's."""
    if words[:1] != ("help",):
        return None
    try:
        given = parse_command("help", (_COMMAND,), words[1:])
    except (HelpWanted, UsageError):
        return None
    return VERBS.get(str(given.get("command")))


def overview() -> str:
    """Write our verbs, and what we add to virsh's, as virsh writes a group of its commands."""
    lines = [" Post-copy (virsh-postcopy; see help COMMAND):"]
    for verb in VERBS.values():
        lines.append(f"    {verb.name:<30s} {verb.summary}")
        lines += _added(verb) if verb.name == "migrate" else ()
    return "\n".join([*lines, "", ""])


def _added(verb: Verb) -> list[str]:
    ours = (option for option in verb.options if option.is_ours)
    return [f"      {_usage(option):<28s} {option.help}" for option in ours]


def help_text(verb: Verb) -> str:
    """Write a verb's help as virsh does."""
    lines = [
        "  NAME",
        f"    {verb.name} - {verb.summary}",
        "",
        "  SYNOPSIS",
        f"    {verb.name} {' '.join(map(_synopsis, verb.options))}",
        "",
        "  DESCRIPTION",
        f"    {verb.description}",
        "",
        "  OPTIONS",
        *_rows(option for option in verb.options if not option.is_ours),
    ]
    ours = [option for option in verb.options if option.is_ours]
    if ours:
        lines += ["", "  OPTIONS OF virsh-postcopy", *_rows(ours)]
    return "\n".join(lines) + "\n\n"


def _synopsis(option: Option) -> str:
    if option.is_required:
        return f"<{option.name}>"
    return f"[{_usage(option)}]"


def _rows(options: Sequence[Option] | Iterator[Option]) -> list[str]:
    return [f"    {_entry(option):<15s}  {option.help}" for option in options]


def _entry(option: Option) -> str:
    return f"[--{option.name}] <string>" if option.is_required else _usage(option)


def _usage(option: Option) -> str:
    if option.kind is Kind.BOOL:
        return f"--{option.name}"
    return f"--{option.name} <{option.kind.value_word}>"
