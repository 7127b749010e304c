"""What nobody should type: virsh's answer where virsh answers, one line where it is ours, a traceback never."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shim.conftest import Ended, Pair, ended

OURS = ["migrate", "--live", "--enable-postcopy"]
HUGE = "9" * 5000


@pytest.mark.parametrize(
    "words",
    [
        [*OURS, "test", b"\xff\xfe"],
        [*OURS, b"\xff", "test:///default"],
        [*OURS, "test", "test:///default", "--dname", b"\xff"],
        [*OURS, "test", "test:///default", "--bandwidth", HUGE],
        [*OURS, "test", "test:///default", "--timeout", HUGE, "--timeout-postcopy"],
        [*OURS, "test", "test:///default", "--postcopy-after", HUGE],
        [*OURS, "test", "test:///default", "--postcopy-after", "-1"],
        [*OURS, "test", "test:///default", "--postcopy-after", "1e999"],
        [*OURS, "test", "test:///default", "--postcopy-after", "nan"],
        [*OURS, "test", "test:///default", "--postcopy-policy", "x" * 100_000],
        [*OURS, "test", "test:///default", "--postcopy-policy", "after:" + "(" * 1000],
        [*OURS, "test", "test:///default", "--postcopy-recover", "\x1b[2J"],
        [*OURS, "test", "test:///default", "--xml", "/dev/zero"],
        [*OURS, "test", "test:///default", "--xml", "/nonexistent\n/x"],
        [*OURS, "x" * 100_000, "test:///default"],
        [*OURS, HUGE, "test:///default"],
        [*OURS, "--" + "x" * 100_000],
        [*OURS],
        [*OURS, "", ""],
        [*OURS, "test", ""],
        ["migrate-start-postcopy", b"\xff"],
        ["migrate-start-postcopy", HUGE],
        ["postcopy-check", "test", b"\xff"],
        ["postcopy-recover", "test", "\udcff".encode("utf-8", "surrogateescape")],
        ["postcopy-attach", "test", "--postcopy-policy", ""],
        ["domjobinfo", b"\xff", "--postcopy"],
        ["domjobinfo", "--postcopy", HUGE],
        ["migrate --enable-postcopy '"],
        ['migrate --enable-postcopy "'],
        ["list; migrate --enable-postcopy " + "x " * 20_000],
        [b"list; migrate-start-postcopy \xff"],
    ],
    ids=lambda words: str(words)[:60],
)  # fmt: skip
def test_ours(pair: Pair, words: list[str | bytes]) -> None:
    done = pair.ours(["virsh", "-c", "test:///default", *words])
    assert done.status == 1
    errors = done.err.splitlines()
    assert errors and all(line.startswith(b"error: ") for line in errors)
    assert b"Traceback" not in done.err and b"please report" not in done.err
    assert b"\x1b" not in done.err


def test_traceback_is_for_who_asks(pair: Pair) -> None:
    words = [*OURS, "test", "test:///default", "--postcopy-after", "x"]
    argv = ["env", "LIBVIRT_POSTCOPY_DEBUG=1", "virsh", "-c", "test:///default"]
    assert b"Traceback" in pair.ours([*argv, *words]).err


@pytest.mark.parametrize(
    "text",
    [
        b"echo a\x00b\n",
        b"\x00\n",
        b"\xff\xfe\n",
        b"migrate-start\x00-postcopy\n",
        b"echo " + b"x" * 1_000_000 + b"\n",
        b'echo "\n',
        b"\\\n",
        b"echo postcopy\x1b[A\n",
    ],
    ids=lambda text: str(text[:20]),
)
def test_standard_input_is_virshs(compare: Callable[..., Ended], text: bytes) -> None:
    compare(["virsh", "-q", "-c", "test:///default"], text)


def test_argument_that_the_kernel_refuses(compare: Callable[..., Ended]) -> None:
    """10 MB in one argument never get to any program."""
    script = 'virsh echo "$(head -c 10000000 /dev/zero | tr "\\0" x)" 2>/dev/null'
    assert compare(["bash", "-c", script]).status == 126


def test_line_of_a_megabyte(pair: Pair) -> None:
    text = b"migrate-start-postcopy " + b"x" * 1_000_000 + b"\n"
    done = ended(["virsh", "-q", "-c", "test:///default"], pair.environs[1], text)
    assert b"Traceback" not in done.err and done.err.startswith(b"error: ")
