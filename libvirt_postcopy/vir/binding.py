"""libvirt-python as it is installed here, for the check of the bindings and for calls past it."""

from __future__ import annotations

import libvirt
import libvirt_qemu

from libvirt_postcopy.bindings.binding import Binding

__all__ = ["LOADED", "installed"]

LOADED = Binding(libvirt, libvirt_qemu)
"""The binding that this process has loaded; which version it is, :func:`installed` says."""


def installed() -> Binding:
    """The binding that this process has loaded, with its version."""
    from importlib import metadata  # slow, and only the check asks for it

    try:
        version = metadata.version("libvirt-python")
    except metadata.PackageNotFoundError:  # some distributions leave it out
        version = ""
    return Binding(libvirt, libvirt_qemu, version)
