"""Policies made of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy.base import Decision, Observation, OnPass, Policy
from libvirt_postcopy.policy.simple import AfterPrecopy, Never

__all__ = ["AnyOf", "AllOf", "foresee"]


def _patience(decisions: Sequence[Decision]) -> Decision:
    """Wait, but look again as soon as any of these would."""
    times = [each.look_again_at for each in decisions if each.look_again_at is not None]
    return Decision(
        look_again_at=min(times, default=None),
        needs_stats=any(each.needs_stats for each in decisions),
    )


def _require_some(policies: Sequence[Policy]) -> None:
    if not policies:
        raise UsageError("a policy that is made of others needs at least one")


def _alternatives(policy: Policy) -> list[str]:
    """What ``|`` joins in its text, which knows no parentheses."""
    return str(policy).split("|")


@dataclass(frozen=True)
class AnyOf:
    """``a|b``: switch when the first of them would.

    Its text leaves ``never`` out beside others: an alternative that never fires changes nothing.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        _require_some(self.policies)

    @property
    def enables_postcopy(self) -> bool:
        """One that may switch is enough."""
        return any(each.enables_postcopy for each in self.policies)

    def decide(self, seen: Observation) -> Decision:
        """Take the first reason."""
        decisions = [each.decide(seen) for each in self.policies]
        for decision in decisions:
            if decision.reason is not None:
                return decision
        return _patience(decisions)

    def __str__(self) -> str:
        never = str(Never())
        words = [word for each in self.policies for word in _alternatives(each)]
        return "|".join(word for word in words if word != never) or never


@dataclass(frozen=True)
class AllOf:
    """``a&b``: switch when all of them would.

    Its text is multiplied out where one of them is an :class:`AnyOf`: ``(a|b)&c`` is ``a&c|b&c``.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        _require_some(self.policies)

    @property
    def enables_postcopy(self) -> bool:
        """One that never switches forbids it."""
        return all(each.enables_postcopy for each in self.policies)

    def decide(self, seen: Observation) -> Decision:
        """Take all reasons or none."""
        decisions = [each.decide(seen) for each in self.policies]
        reasons = [each.reason for each in decisions]
        if None in reasons:
            return _patience([each for each in decisions if each.reason is None])
        return Decision(reason=" and ".join(str(reason) for reason in reasons))

    def __str__(self) -> str:
        return "|".join(map("&".join, product(*map(_alternatives, self.policies))))


def foresee(policy: Policy, seen: Observation) -> OnPass | None:
    """What a policy that waits will decide at the announcement of a pass, if nothing else is seen before it.

    Only for policies that are exactly these: one that is made of them, or inherits from them, may decide otherwise.
    """
    if type(policy) is AfterPrecopy:
        return policy.on_pass(seen)
    if type(policy) is not AnyOf:
        return None
    orders = [foresee(each, seen) for each in policy.policies]
    return min(filter(None, orders), key=lambda order: order.number, default=None)
