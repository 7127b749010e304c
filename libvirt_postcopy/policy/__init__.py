"""When to switch: pure functions of what was seen and the time."""

from libvirt_postcopy.policy.base import (
    WAIT,
    Decision,
    Observation,
    OnPass,
    Policy,
)
from libvirt_postcopy.policy.combine import AllOf, AnyOf, foresee
from libvirt_postcopy.policy.simple import After, AfterPrecopy, Manual, Never
from libvirt_postcopy.policy.spec import parse

__all__ = [
    "parse",
    "Policy",
    "Manual",
    "Never",
    "After",
    "AfterPrecopy",
    "AnyOf",
    "AllOf",
    "Observation",
    "Decision",
    "OnPass",
    "foresee",
    "WAIT",
]
