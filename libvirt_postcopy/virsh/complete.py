"""What a word may be completed to: what virsh says, and what is ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import Kind
from libvirt_postcopy.virsh.real import ask_virsh
from libvirt_postcopy.virsh.verbs import VERBS, Verb

__all__ = ["VALUES", "candidates"]

VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "postcopy-check": ("off", "warn", "strict"),
        "postcopy-driver": ("auto", "native", "qemu"),
        "postcopy-policy": ("manual", "never", "after-precopy", "after:"),
        "postcopy-recover": ("never",),
        "set": ("manual", "never", "after-precopy", "after:"),
    }
)
"""What an option of ours takes, where it can be listed."""


def candidates(words: Sequence[str], given: Sequence[str]) -> list[str]:
    """Say what the last word may be.

    :param words: A command line as far as it has been typed; the last word may be empty.
    :param given: virsh's own options.
    """
    *before, word = words or [""]
    found = dict.fromkeys(_virshs(before, word, given))
    found.update(dict.fromkeys(each for each in _ours(before) if each.startswith(word)))
    return list(found)


def _virshs(before: Sequence[str], word: str, given: Sequence[str]) -> list[str]:
    """What virsh completes; for a verb of ours a domain, as for a verb of its own."""
    verb = VERBS.get(before[0]) if before else None
    if verb is not None and not verb.is_virshs:
        if word.startswith("-") or not _wants_domain(verb, before):
            return []
        before = ["domstate", "--domain"]
    elif verb is not None:
        if _value_of(verb, before) in VALUES:
            return []
        before = list(_without_ours(verb, before))
    asked = ["-q", *given, "complete", "--", *before, word]
    with suppress(UsageError):
        status, out, _ = ask_virsh(asked)
        if status == 0:
            return out.decode(errors="surrogateescape").split()
    return []


def _ours(before: Sequence[str]) -> Iterator[str]:
    if not before:
        yield from VERBS
        return
    verb = VERBS.get(before[0])
    if verb is None:
        return
    name = _value_of(verb, before)
    if name:
        yield from VALUES.get(name, ())
        return
    yield from (
        f"--{option.name}"
        for option in verb.options
        if (option.is_ours or not verb.is_virshs) and f"--{option.name}" not in before
    )


def _without_ours(verb: Verb, before: Sequence[str]) -> Iterator[str]:
    """Without options of ours and their values: virsh completes nothing behind what it does not know."""
    ours = {f"--{each.name}": each.kind for each in verb.options if each.is_ours}
    rest = iter(before)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in ours:
            yield word
        elif ours[name] is not Kind.BOOL and not equals:
            next(rest, None)


def _value_of(verb: Verb, before: Sequence[str]) -> str:
    """The option whose value comes next; empty if there is none."""
    last = before[-1][2:] if before[-1].startswith("--") else ""
    takes = {each.name for each in verb.options if each.kind is not Kind.BOOL}
    return last if last in takes else ""


def _wants_domain(verb: Verb, before: Sequence[str]) -> bool:
    """Whether a domain's name comes next."""
    flags = {f"--{each.name}" for each in verb.options if each.kind is Kind.BOOL}
    return _value_of(verb, before) == "domain" or flags.issuperset(before[1:])
