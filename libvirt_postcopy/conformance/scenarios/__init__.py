"""How the conversations come about; see :mod:`.base`."""

from libvirt_postcopy.conformance.scenarios import (
    cancel,
    faults,
    idle,
    memory,
    switch,
)
from libvirt_postcopy.conformance.scenarios.base import SCENARIOS, Scenario

__all__ = ["SCENARIOS", "Scenario", "cancel", "faults", "idle", "memory", "switch"]
