"""What the programs share.  Closed streams are tested with the programs, in processes of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from libvirt_postcopy.errors import GuestLost, PostcopyBroken, UsageError
from libvirt_postcopy.programs import FAILED, error_handler, flush_streams

STATUSES = {"split": 3}


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UsageError("a\nb", cure="c"), FAILED, "error: a b (c)"),
        (PostcopyBroken("x"), 3, "error: x"),
        (GuestLost("x"), FAILED, "error: x"),
        (KeyboardInterrupt(), FAILED, "error: stopped"),
        (ValueError("x"), FAILED, "error: unexpected, please report: ValueError: x"),
        (BrokenPipeError(), FAILED, "error: unexpected, please report: BrokenPipeError:"),
    ],
)  # fmt: skip
def test_errors_become_a_line_and_a_status(
    error: BaseException, status: int, line: str
) -> None:
    def run() -> int:
        raise error

    said: list[str] = []
    got = error_handler(run, said.append, interrupted="stopped", statuses=STATUSES)
    assert got == status and said == [line]


def test_status_of_what_did_not_fail() -> None:
    assert error_handler(lambda: 7, pytest.fail) == 7


def test_streams_that_cannot_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", None)
    flush_streams()


LOG = ("LIBVIRT_DEBUG", "LIBVIRT_LOG_FILTERS", "LIBVIRT_LOG_OUTPUTS", "LIBVIRT_POSTCOPY_DEBUG")  # fmt: skip

ASK_LIBVIRT = """
import ctypes, os, sys
from libvirt_postcopy.virsh.main import main
assert main(["-q", "-c", "test:///default", "postcopy-policy", "test"]) == 0
filters = ctypes.CDLL("libvirt.so.0").virLogGetFilters
filters.restype = ctypes.c_char_p
print((filters() or b"").decode(), file=sys.stderr)
print(os.environ.get("LIBVIRT_LOG_FILTERS"), file=sys.stderr)
"""


@pytest.mark.programs
@pytest.mark.parametrize(
    "given, filters, left",
    [
        ({}, "4:*libvirt.domain*", "None"),
        ({"LIBVIRT_LOG_FILTERS": "3:libvirt.domain"}, "3:*libvirt.domain*", "3:libvirt.domain"),
        ({"LIBVIRT_DEBUG": "4"}, "", "None"),
        ({"LIBVIRT_LOG_OUTPUTS": "3:file:/dev/null"}, "", "None"),
        ({"LIBVIRT_POSTCOPY_DEBUG": "1"}, "", "None"),
    ],
)  # fmt: skip
def test_libvirt_guesses_nothing_on_stderr_unless_its_log_is_asked_for(
    given: dict[str, str], filters: str, left: str
) -> None:
    """As libvirt itself has it then; nor does a program that is started later find it in the environment."""
    environ = {name: text for name, text in os.environ.items() if name not in LOG}
    run = subprocess.run(
        [sys.executable, "-c", ASK_LIBVIRT],
        env={**environ, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line.strip() for line in run.stderr.splitlines()]
    assert said[-2:] == [filters, left]
    assert len(said) == 2 or "LIBVIRT_POSTCOPY_DEBUG" in given
