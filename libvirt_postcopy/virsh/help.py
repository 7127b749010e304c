"""Our part of virsh's help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    HelpWanted,
    Kind,
    Option,
    parse_command,
)
from libvirt_postcopy.virsh.real import ask_virsh
from libvirt_postcopy.virsh.verbs import VERBS, Verb

__all__ = [
    "group",
    "help_text",
    "is_for_group",
    "is_for_overview",
    "overview",
    "topic",
]

KEYWORD = "postcopy"

_COMMAND = Option("command", Kind.STRING, "name of command", is_positional=True)


def is_for_overview(words: Sequence[str]) -> bool:
    """Whether virsh lists all its commands, so that ours belong below."""
    return tuple(words) == ("help",)


def topic(words: Sequence[str]) -> Verb | None:
    """Say which verb of ours ``help`` is asked of; None for one of virsh's."""
    return VERBS.get(_asked(words))


def is_for_group(words: Sequence[str]) -> bool:
    """Whether our verbs are to be listed alone, as virsh lists a group of its commands."""
    return _asked(words) == KEYWORD


def _asked(words: Sequence[str]) -> str:
    if tuple(words[:1]) != ("help",):
        return ""
    try:
        given = parse_command("help", (_COMMAND,), words[1:])
    except (HelpWanted, UsageError):
        return ""
    return str(given.get("command", ""))


def overview() -> str:
    """Write our verbs below virsh's groups of commands."""
    return f"{group()}\n"


def group() -> str:
    """Write our verbs, and what we add to virsh's, as virsh writes a group of its commands."""
    lines = [f" Post-copy (help keyword '{KEYWORD}'):"]
    for verb in VERBS.values():
        lines.append(f"    {verb.name:<30s} {verb.summary}")
        lines += _added(verb) if verb.is_virshs else ()
    return "\n".join([*lines, ""])


def _added(verb: Verb) -> list[str]:
    ours = (option for option in verb.options if option.is_ours)
    return [f"      {_usage(option):<28s} {option.help}" for option in ours]


def help_text(verb: Verb) -> str:
    """Write a verb's help: virsh's own, and what we add to it."""
    if verb.is_virshs:
        status, text, _ = ask_virsh(["-q", "help", verb.name])
        if status == 0:
            return text.decode(errors="surrogateescape") + "\n".join(_ours(verb))
    return _full_text(verb)


def _ours(verb: Verb) -> list[str]:
    rows = _rows(option for option in verb.options if option.is_ours)
    return ["  OPTIONS OF virsh-postcopy", *rows, "", ""] if rows else []


def _full_text(verb: Verb) -> str:
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
        "",
    ]
    return "\n".join([*lines, *(_ours(verb) or [""])])


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
