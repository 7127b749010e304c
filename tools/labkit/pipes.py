"""Programs whose output somebody stops reading, as ``head`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

__all__ = ["NOBODY_READS", "end_quietly"]

#: What a shell shows of a program that SIGPIPE has ended.
NOBODY_READS = 141


def end_quietly(run: Callable[[], int]) -> int:
    """Run a program's `main`; it ends without a word when nobody reads its output any more.

    Not by the signal itself: what the program has begun must be undone.

    :returns: What it returned, or `NOBODY_READS`.
    """
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_what_is_buffered()
        return NOBODY_READS


def _drop_what_is_buffered() -> None:
    """Else Python tries to write it at exit, and complains that it cannot."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(null, stream.fileno())
    os.close(null)
