"""Builds and loads ``shim.c``."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from cffi import FFI

from libvirt_postcopy.bindings import call

SOURCE = Path(__file__).with_name("shim.c")

_EXTRA = """
extern char shim_given[8192];
extern unsigned int shim_flags;
int shim_wait_until_inside(void);
void shim_release(void);
"""


def build(folder: Path) -> Path:
    """Compile it, also with those ``CFLAGS`` that a sanitizer needs."""
    target = folder / "libshim.so"
    flags = shlex.split(os.environ.get("CFLAGS", ""))
    command = ["cc", *flags, "-Wall", "-Werror", "-shared", "-fPIC", str(SOURCE), "-o", str(target), "-lvirt"]  # fmt: skip
    subprocess.run(command, check=True, timeout=60)
    return target


def load(path: Path) -> tuple[Any, Any]:
    """cffi, and the shim in libvirt's place, as ``call`` has them."""
    ffi = FFI()
    ffi.cdef(call.DECLARED + _EXTRA)
    return ffi, ffi.dlopen(str(path))
