"""The commands that virsh-postcopy answers itself; all others are the real virsh's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    HelpWanted,
    Kind,
    Option,
    Value,
    mentions,
    parse_command,
)
from libvirt_postcopy.virsh.options import DOMAIN, ENABLING, MIGRATE_OPTIONS

__all__ = ["VERBS", "Verb", "claims", "help_text"]

_OURS = frozenset(option.name for option in MIGRATE_OPTIONS if option.is_ours)
_TOKENS = frozenset(f"--{name}" for name in _OURS.union(ENABLING))


def _wants_migrate(given: Mapping[str, Value]) -> bool:
    """Whether post-copy, or something else of ours, is asked for.

    virsh's own recovery (``--postcopy-resume``) and its own way with ``--timeout``, which is to suspend
    the guest, are left to it as long as no option of ours is there too.
    """
    if _OURS & given.keys():
        return True
    suspends = "timeout" in given and "timeout-postcopy" not in given
    if suspends or "timeout-suspend" in given or "postcopy-resume" in given:
        return False
    return not given.keys().isdisjoint(ENABLING)


@dataclass(frozen=True)
class Verb:
    """A command that we answer, always or when ``wants`` says so of its options.

    :ivar module: Where its ``run`` is, imported only when it is run.
    :ivar tokens: Words that make an invalid line ours to complain about; None for any line.
    """

    name: str
    summary: str
    description: str
    options: tuple[Option, ...]
    module: str
    wants: Callable[[Mapping[str, Value]], bool] = lambda given: True
    tokens: frozenset[str] | None = None


_START = Verb(
    name="migrate-start-postcopy",
    summary="Switch running migration from pre-copy to post-copy",
    description="Switch running migration from pre-copy to post-copy. The migration must have been started"
    " with --postcopy or --enable-postcopy.",
    options=(DOMAIN,),
    module="libvirt_postcopy.virsh.switch",
)

VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        verb.name: verb
        for verb in (
            Verb(
                name="migrate",
                summary="migrate domain to another host",
                description="Migrate domain to another host.  Add --live for live migration.",
                options=MIGRATE_OPTIONS,
                module="libvirt_postcopy.virsh.migrate",
                wants=_wants_migrate,
                tokens=_TOKENS,
            ),
            _START,
            replace(_START, name="migrate-postcopy"),
        )
    }
)


def claims(words: Sequence[str]) -> Verb | None:
    """Say which verb of ours a command line is for; None if the real virsh is to have it.

    A line that is not valid is ours only if it names an option of ours, so that virsh complains about
    all others in its own way.
    """
    verb = VERBS.get(words[0]) if words else None
    if verb is None or verb.tokens is None:
        return verb
    try:
        given = parse_command(verb.name, verb.options, words[1:])
    except HelpWanted:
        return verb
    except UsageError:
        return verb if mentions(verb.tokens, words[1:]) else None
    return verb if verb.wants(given) else None


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
    return "\n".join(lines) + "\n"


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
    return f"--{option.name} <{'number' if option.kind.is_number else 'string'}>"
