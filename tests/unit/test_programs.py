"""What the programs share.  Closed streams are tested with the programs, in processes of their own."""

from __future__ import annotations

import io
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
