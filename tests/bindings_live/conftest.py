"""What the unit tests of the bindings have too: a binding to break, and the shim in libvirt's place."""

from __future__ import annotations

from unit.bindings.conftest import binding, dom, in_place, module, shim_file

__all__ = ["binding", "dom", "in_place", "module", "shim_file"]
