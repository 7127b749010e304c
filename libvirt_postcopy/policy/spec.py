"""Policies as text: ``manual``, ``never``, ``after-precopy[:PASSES]``, ``after:DURATION``, ``a|b``, ``a&b``.

``&`` binds tighter than ``|``.  ``str()`` of a policy gives the text back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy.base import Policy
from libvirt_postcopy.policy.combine import AllOf, AnyOf
from libvirt_postcopy.policy.simple import After, AfterPrecopy, Manual, Never
from libvirt_postcopy.units import parse_duration

__all__ = ["parse"]

_CURE = "write one of: manual, never, after-precopy[:PASSES], after:DURATION; join with | or &"
_PRECEDENCE = "& binds tighter than |: a&b|c means a and b together, or c"
_LONGEST = 1000  # characters; a specification is typed by hand


def parse(text: str) -> Policy:
    """Read a policy specification.

    :raises UsageError: If it is not one; the text names the part that is wrong.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"a policy of {len(text)} characters is too long", cure=_CURE)
    if "(" in text or ")" in text:
        raise UsageError("a policy has no parentheses", cure=_PRECEDENCE)
    _check_gaps(text)
    either = [_parse_all(part) for part in text.split("|")]
    if len(either) == 1:
        return either[0]
    if Never() in either:
        raise UsageError(
            "'never' stands alone: beside '|' it forbids what the others ask for",
            cure="leave out 'never', or all but 'never'",
        )
    return AnyOf(tuple(either))


def _check_gaps(text: str) -> None:
    """Refuse a ``|`` or ``&`` that joins nothing."""
    words = re.split(r"([|&])", text)
    if len(words) == 1:
        return
    for place in range(0, len(words), 2):
        if not words[place].strip():
            where, sign = ("after", place - 1) if place else ("before", 1)
            raise UsageError(
                f"there is nothing {where} '{words[sign]}' in the policy '{text.strip()[:40]}'",
                cure=_CURE,
            )


def _parse_all(text: str) -> Policy:
    both = [_parse_one(part) for part in text.split("&")]
    return both[0] if len(both) == 1 else AllOf(tuple(both))


def _parse_one(text: str) -> Policy:
    name, colon, argument = text.strip().partition(":")
    try:
        build = _BUILDERS[name]
    except KeyError:
        raise _unknown(name) from None
    return build(argument if colon else None)


def _unknown(name: str) -> UsageError:
    if not name:
        return UsageError("the policy has no name", cure=_CURE)
    is_shouted = name.lower() in _BUILDERS
    cure = f"write it in lower case: {name.lower()}" if is_shouted else _CURE
    return UsageError(f"unknown policy '{name[:40]}'", cure=cure)


def _manual(argument: str | None) -> Policy:
    return _bare("manual", Manual(), argument)


def _never(argument: str | None) -> Policy:
    return _bare("never", Never(), argument)


def _bare(name: str, policy: Policy, argument: str | None) -> Policy:
    if argument is not None:
        raise UsageError(f"policy '{name}' takes no argument", cure=_CURE)
    return policy


def _after(argument: str | None) -> Policy:
    if argument is None:
        raise UsageError(
            "policy 'after' needs a duration", cure="for example after:30s"
        )
    return After(parse_duration(argument))


def _after_precopy(argument: str | None) -> Policy:
    if argument is None:
        return AfterPrecopy()
    if not (argument.isascii() and argument.isdigit() and len(argument) < 10):
        raise UsageError(
            f"'{argument[:40]}' is not a number of passes",
            cure="for example after-precopy:2",
        )
    return AfterPrecopy(int(argument))


_BUILDERS: Mapping[str, Callable[[str | None], Policy]] = MappingProxyType(
    {
        "manual": _manual,
        "never": _never,
        "after": _after,
        "after-precopy": _after_precopy,
    }
)
