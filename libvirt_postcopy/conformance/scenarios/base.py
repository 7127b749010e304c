"""The list of scenarios.

A scenario drives a fresh pair of QEMUs and judges nothing; what was said is judged by the checks that name it.  So one pair
serves all checks that only look, and a check can be run again over a recording of any origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libvirt_postcopy.conformance.pair import Pair, Setup

__all__ = ["SCENARIOS", "Scenario", "scenario"]

Drive = Callable[[Pair], None]


@dataclass(frozen=True)
class Scenario:
    """How a conversation comes about."""

    name: str
    setup: Setup
    needs: Sequence[str]
    is_quick: bool  #: part of the packager's minimum
    is_disruptive: bool
    drive: Drive
    accel: str  #: the only one with which it says something, or empty

    @property
    def text(self) -> str:
        return (self.drive.__doc__ or "").strip().split("\n")[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str,
    setup: Setup | None = None,
    *,
    needs: Sequence[str] = ("cap:postcopy-ram",),
    quick: bool = False,
    accel: str = "",
) -> Callable[[Drive], Drive]:
    """Register a function as a scenario.

    :param needs: Features without which it cannot run.
    """

    def register(drive: Drive) -> Drive:
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(
            name, setup or Setup(), tuple(needs), quick, True, drive, accel
        )
        return drive

    return register
