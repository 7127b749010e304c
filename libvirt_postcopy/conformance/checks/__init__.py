"""All checks; importing this package registers them."""

from libvirt_postcopy.conformance.checks import (
    cancelling,
    capabilities,
    introspection,
    recovery,
    startup,
    switchover,
)

__all__ = [
    "cancelling",
    "capabilities",
    "introspection",
    "recovery",
    "startup",
    "switchover",
]
