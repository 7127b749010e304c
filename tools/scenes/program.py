"""How the demo and the benchmarks run: in a lab of their own, and back to nothing at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

import libvirt

from guest.heartbeat import GuestFault
from labkit import LabError
from labkit.pipes import end_quietly

__all__ = ["SceneError", "run_program"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LAST_WORDS = b"interrupted: taking the lab down\n"


class SceneError(Exception):
    """Something else happened than what was to be shown."""


class _Ended(BaseException):
    """A signal has ended the program; it unwinds as ``KeyboardInterrupt`` does."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_program(run: Callable[[], int]) -> int:
    """Run what uses a lab; whatever ends it, one line says so.

    :returns: What it returned; 1 if it failed; 128 and the signal's number if it was ended by one.
    """
    before = [signal.signal(number, _end) for number in ENDING]
    try:
        return end_quietly(lambda: _run(run))
    finally:
        for number, handler in zip(ENDING, before):
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    # A second one must not keep the lab from being taken down.
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    os.write(2, LAST_WORDS)  # print() may be what was interrupted
    raise _Ended(number)


def _run(run: Callable[[], int]) -> int:
    try:
        return run()
    except _Ended as ended:
        return 128 + ended.number
    except BrokenPipeError:
        raise
    except (SceneError, LabError, GuestFault, OSError) as error:
        why = str(error)
    except (libvirt.libvirtError, subprocess.SubprocessError) as error:
        why = str(error)
    print(f"error: {' '.join(why.split())}", file=sys.stderr)
    return 1
