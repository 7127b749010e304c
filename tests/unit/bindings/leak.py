"""Calls past the binding, over and over: prints how many KiB the process grew by after it had warmed up."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import libvirt

from libvirt_postcopy.bindings import call
from unit.bindings import shim
from unit.bindings.test_call import PARAMS

failed = libvirt.libvirtError


def resident_kib() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main(kind: str, library: str, count: int) -> None:
    libvirt.registerErrorHandler(lambda context, error: None, None)
    dom = libvirt.open("test:///default").lookupByName("test")
    calls: dict[str, Callable[[], object]] = {
        "error": lambda: call.start_postcopy(dom, 0, failed),
        "success": lambda: call.start_postcopy(dom, 0, failed),
        "parameters": lambda: call.migrate3(dom, dom.connect(), PARAMS, 1, failed),
        "refused": lambda: call.migrate3(dom, dom.connect(), PARAMS, 1, failed),
    }
    if kind in ("success", "parameters"):
        call._opened.append(shim.load(shim.Path(library)))
    made = 0
    before = 0
    for number in range(2 * count):
        if number == count:
            before = resident_kib()
        with suppress(libvirt.libvirtError):
            calls[kind]()
            made += 1
    assert made == (2 * count if kind in ("success", "parameters") else 0), made
    print(resident_kib() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
