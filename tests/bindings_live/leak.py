"""Calls past the binding, over and over: prints how many KiB the process grew by after it had warmed up."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import libvirt

from libvirt_postcopy.bindings import call
from unit.bindings import shim
from unit.bindings.test_call import PARAMS

failed = libvirt.libvirtError
URI = "qemu+tls://b/system"

Call = Callable[[libvirt.virDomain], object]

CALLS: dict[str, Call] = {
    "switch": lambda dom: call.start_postcopy(dom, 0, failed),
    "abort": lambda dom: call.abort_job_flags(dom, 1, failed),
    "managed": lambda dom: call.migrate3(dom, dom.connect(), PARAMS, 1, failed),
    "to uri": lambda dom: call.migrate_to_uri3(dom, URI, PARAMS, 1, failed),
}
"""Made twice: libvirt's test driver refuses each, and the shim in its place takes them."""

LEAKING: Call = lambda dom: call.start_postcopy(dom, 2, failed)  # noqa: E731


def resident_kib() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main(kind: str, library: str, count: int) -> None:
    """:param library: The shim; empty for libvirt itself."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    dom = libvirt.open("test:///default").lookupByName("test")
    make = CALLS.get(kind, LEAKING)
    if library:
        call._opened.append(shim.load(Path(library)))
    made = 0
    before = 0
    for number in range(2 * count):
        if number == count:
            before = resident_kib()
        with suppress(libvirt.libvirtError):
            make(dom)
            made += 1
    assert made == (2 * count if library else 0), made
    print(resident_kib() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
