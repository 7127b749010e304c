"""Which way a call takes, by what the library and libvirt-python have.

Asked by the check, for its report, and by :mod:`libvirt_postcopy.vir`, before each call; so both say the same.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.call import can_call
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.features import Path, call_path

__all__ = ["path_of"]

_MONITOR = SYMBOLS["virDomainQemuMonitorCommand"]


def path_of(
    name: str,
    binding: Binding,
    has: Callable[[str], bool],
    *,
    is_misread: bool = False,
) -> Path:
    """The way that a call of a C function takes.

    :param has: Whether the libraries have a function.
    :param is_misread: The binding would pass one of its parameters in a type that the daemon refuses.
    """
    symbol = SYMBOLS[name]
    in_binding = binding.has(symbol) and not is_misread
    can_send = bool(symbol.passthrough) and has(_MONITOR.name) and binding.has(_MONITOR)
    return call_path(
        in_library=has(name),
        in_binding=in_binding,
        past_binding=not in_binding and can_call(name),  # cffi is slow to load
        by_monitor=can_send,
    )
