"""``conformance``: does a QEMU's post-copy behave as documented?

A program of its own, which is named here and nowhere imported; see :mod:`libvirt_postcopy.conformance.program`.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TextIO

__all__ = ["options", "run"]

_PROGRAM = "libvirt_postcopy.conformance.program"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    import_module(_PROGRAM).options(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do what was asked for."""
    return int(import_module(_PROGRAM).run(args, out))
