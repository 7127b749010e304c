"""``policy``: reads a policy specification and says what it means."""

from __future__ import annotations

import argparse
from typing import TextIO

from libvirt_postcopy.policy import (
    After,
    AfterPrecopy,
    AllOf,
    AnyOf,
    Manual,
    Never,
    Policy,
    parse,
)
from libvirt_postcopy.units import format_duration

__all__ = ["explain", "options", "run"]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "spec", metavar="SPEC", help="for example: after-precopy|after:5m"
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the specification as it is understood, and a line that explains it."""
    policy = parse(args.spec)
    out.write(f"{policy}\n{explain(policy)}\n")
    return 0


def explain(policy: Policy) -> str:
    """Say in one line when a policy switches."""
    if not policy.enables_postcopy:
        return (
            "never switches: post-copy is not enabled, so nobody else can switch either"
        )
    if isinstance(policy, Manual):
        return "switches only when somebody asks for it"
    return f"switches {_when(policy)}"


def _when(policy: Policy) -> str:
    if isinstance(policy, AnyOf):
        return _joined(policy.policies, " or ", "whichever comes first")
    if isinstance(policy, AllOf):
        return _joined(policy.policies, " and ", "once all of it holds")
    if isinstance(policy, After):
        if not policy.seconds:
            return "as soon as memory flows"
        return f"when pre-copy has lasted {format_duration(policy.seconds)}"
    if isinstance(policy, AfterPrecopy):
        if policy.passes == 1:
            return "when the first pass over memory is done"
        return f"when {policy.passes} passes over memory are done"
    if isinstance(policy, Manual):
        return "when somebody asks for it"
    if isinstance(policy, Never):
        return "never"
    return f"by {policy}"


def _joined(policies: tuple[Policy, ...], word: str, how: str) -> str:
    parts = [
        f"({_when(each)})" if isinstance(each, (AnyOf, AllOf)) else _when(each)
        for each in policies
    ]
    return f"{word.join(parts)}, {how}"
