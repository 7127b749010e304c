"""The checks: one function each, with a fixed id, the requirement in its docstring, and where that is promised.

A check reads a conversation and judges it; it sends nothing.  What it can say:

* it returns: pass;
* :func:`fail`: the requirement is not kept;
* :func:`weak`: it is kept in substance, but not as released so far, for example with another text;
* :func:`unseen`: what the check is about did not come up in this conversation, which fails where our own scenario is for it;
* :func:`inapplicable`: this version promises nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.errors import UsageError

__all__ = [
    "CHECKS",
    "Check",
    "Fail",
    "Inapplicable",
    "Level",
    "Unseen",
    "Weak",
    "check",
    "fail",
    "inapplicable",
    "outcomes",
    "require",
    "select",
    "unseen",
    "weak",
]

ANY: Sequence[str] = ("*",)
#: What a check runs into where a message has not the shape that every QEMU gives it, has a number that none gives, or is a
#: schema that contradicts itself.
MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError, UsageError)  # fmt: skip


class Level(Enum):
    """How much it matters."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Fail(Exception):
    """A requirement is not kept."""

    def __init__(self, accepted: str, actual: str, lines: Sequence[Line] = ()) -> None:
        super().__init__(f"accepted: {accepted}; actual: {actual}")
        self.accepted = accepted
        self.actual = actual
        self.lines = tuple(lines)


class Weak(Fail):
    """A requirement is kept, but not quite as expected."""


class Unseen(Exception):
    """The conversation has nothing that the check is about."""


class Inapplicable(Exception):
    """There is nothing to check on this version."""


class Lacking(Inapplicable):
    """This installation lacks a package that the check needs."""


Judge = Callable[[Conversation], None]


@dataclass(frozen=True)
class Check:
    """One requirement."""

    id: str
    alias: str  #: its id in the specification, as ``E8``
    requirement: str
    source: str
    since: str
    level: Level
    scenarios: Sequence[str]
    needs: Sequence[str]
    accel: str
    judge: Judge

    def is_for(self, scenario: str) -> bool:
        """Whether it has something to say of a scenario of ours."""
        return self.scenarios == ANY or scenario in self.scenarios

    @property
    def is_driven(self) -> bool:
        """Whether it judges more than an idle QEMU, and not just any conversation."""
        return bool(set(self.scenarios) - {"*", "introspection"})

    @property
    def since_version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.since.split("."))


CHECKS: dict[str, Check] = {}


def check(
    id: str,
    *,
    alias: str,
    source: str,
    since: str = "2.5",
    scenario: str | Sequence[str] = "post-copy",
    needs: Sequence[str] = (),
    level: Level = Level.MUST,
    accel: str = "",
) -> Callable[[Judge], Judge]:
    """Register a function as a check.

    :param id: Fixed words, never used for anything else again.
    :param source: Where the requirement is promised.
    :param since: The first QEMU that it applies to.
    :param scenario: Whose conversations it judges; ``*`` for all.
    :param needs: Features without which there is nothing to check.
    """

    def register(judge: Judge) -> Judge:
        assert id not in CHECKS, id
        scenarios = (scenario,) if isinstance(scenario, str) else tuple(scenario)
        text = (judge.__doc__ or "").strip().split("\n")[0]
        assert text, f"{id} states no requirement"
        CHECKS[id] = Check(
            id, alias, text, source, since, level, scenarios, tuple(needs), accel, judge
        )
        return judge

    return register


def fail(accepted: str, actual: str, *lines: Line | Exchange | None) -> NoReturn:
    """:param lines: The messages that show it."""
    raise Fail(accepted, actual, _flat(lines))


def weak(accepted: str, actual: str, *lines: Line | Exchange | None) -> NoReturn:
    raise Weak(accepted, actual, _flat(lines))


def require(
    is_kept: object, accepted: str, actual: str, *lines: Line | Exchange | None
) -> None:
    """Fail unless something is so."""
    if not is_kept:
        fail(accepted, actual, *lines)


def unseen(reason: str) -> NoReturn:
    raise Unseen(reason)


def lacking(reason: str) -> NoReturn:
    raise Lacking(reason)


def inapplicable(reason: str) -> NoReturn:
    raise Inapplicable(reason)


def _flat(lines: Sequence[Line | Exchange | None]) -> list[Line]:
    found: list[Line] = []
    for each in lines:
        if isinstance(each, Exchange):
            found += each.lines
        elif each is not None:
            found.append(each)
    return found


def outcomes(seen: Conversation) -> dict[str, str]:
    """What the checks of a scenario say of its conversation, by id: ``pass``, ``fail`` or ``skip``.

    Without what is known of versions: so it is the same in years to come.  What lacks a package here says nothing.
    """
    mine = [each for each in CHECKS.values() if seen.scenario in set(each.scenarios) - {*ANY}]  # fmt: skip
    said = {check.id: _outcome(check, seen) for check in mine}
    return {id: outcome for id, outcome in said.items() if outcome}


def _outcome(check: Check, seen: Conversation) -> str:
    try:
        check.judge(seen)
    except Lacking:
        return ""
    except (Unseen, Inapplicable):
        return "skip"
    except Weak:
        return "pass"
    except (Fail, *MISSHAPEN):
        return "fail"
    return "pass"


def select(words: Sequence[str]) -> list[Check]:
    """Return the checks whose id is, or begins with, one of the words, or whose alias is one; all without words.

    :raises UsageError: If a word selects nothing.
    """
    if not words:
        return list(CHECKS.values())
    chosen = []
    for word in words:
        found = [
            each
            for each in CHECKS.values()
            if each.id == word or each.alias == word or _is_below(each.id, word)
        ]
        if not found:
            raise UsageError(
                f"no check '{word}'", cure="libvirt-postcopy conformance list"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _is_below(id: str, word: str) -> bool:
    return id.startswith(word if word.endswith("/") else f"{word}/")
