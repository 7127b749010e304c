"""virsh's shell where a file or a program feeds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.conftest import PATIENCE_S, Ended, Pair, ended, timeless
from waiting import wait_until

VIRSH = ["virsh", "-c", "test:///default"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "list\n",
        "list",
        "list\n\n\nlist --all\n",
        "foo\nlist\n",
        "list --foo\n",
        "list; list --all; echo x\n",
        "echo 'a b'  \"c\\\"d\" e\\ f\n",
        "echo \"a\nb\"\n",
        "# list\n  # list\necho a # b\n",
        "cd /tmp\npwd\ncd /nonexistent\npwd\ncd\n",
        "quit\nlist\n",
        "exit\nlist\n",
        "list; quit; list\nlist\n",
        "quit x\nlist\n",
        "connect test:///default --readonly\nsuspend test\nlist\n",
        "connect nosuch:///x\nlist\n",
        "suspend test\ndomstate test\nresume test\ndomstate test\ndestroy test\nlist --all\n",
        "define /dev/null\nlist\n",
        "help list\nhelp nosuch\nhelp domain\n",
        "migrate\nmigrate --foo\nmigrate nosuch b\n",
        "migrate --live nosuch b --timeout 5\n",
        "migrate-setspeed test 5\n",
        "echo é\necho \xff\n",
        "echo a\tb\n",
        "echo a\x01b\x00c\n",
        "echo a\x7fb\n",
        "echo a\r\nlist\r\n",
        "echo a \\\nb\n",
        "echo 'x\n",
        "console test\n",
        "edit test\nlist\n",
        "echo " + "x" * 70_000 + "\nlist\n",
        "\n".join(f"echo {number}" for number in range(200)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [[], ["-q"], ["-r"], ["-t"]], ids="".join)
def test_not_ours(compare: Callable[..., Ended], options: list[str], text: str) -> None:
    if options and len(text) > 1000:
        return  # once is enough
    compare([*VIRSH, *options], text.encode("latin-1"))


def test_options_that_are_refused(compare: Callable[..., Ended]) -> None:
    compare(["virsh", "-c", "nosuch:///x"], b"list\n")
    compare(["virsh", "-k", "x"], b"list\n")


def shape(text: bytes) -> list[bytes]:
    return timeless(text).splitlines()


def test_ours_comes_in_its_turn_on_virshs_own_connection(pair: Pair) -> None:
    """The test driver's domains are those of a connection: this one has the domain that was suspended."""
    text = b"suspend test\nmigrate-start-postcopy nosuch\ndomstate test\n"
    without = text.replace(b"migrate-start-postcopy nosuch", b"domstate nosuch")
    argv = ["bash", "-c", "virsh -c test:///default 2>&1"]
    ours, theirs = pair.ours(argv, text), pair.theirs(argv, without)
    assert b"paused" in ours.out and ours.status == 0
    said = [line for line in shape(ours.out) if line[:6] not in (b"error:", b"note: ")]
    same = [line for line in shape(theirs.out) if not line.startswith(b"error: ")]
    assert [
        line.replace(b"migrate-start-postcopy", b"domstate") for line in said
    ] == same
    [error] = [line for line in shape(ours.out) if line.startswith(b"error: ")]
    assert b"failed to get domain 'nosuch'" in error


def test_line_of_both(pair: Pair) -> None:
    text = b"echo a; migrate-start-postcopy nosuch; echo b\n"
    done = pair.ours(["bash", "-c", "virsh -q -c test:///default 2>&1"], text)
    a, error, b = (done.out.index(each) for each in (b"\na", b"error: ", b"\nb"))
    assert a < error < b


@pytest.mark.parametrize("text", [b"echo a; migrate-start-postcopy --foo; echo b\n", b"echo a; migrate-start-postcopy nosuch; foo\n"])  # fmt: skip
def test_line_with_a_mistake_runs_nothing(pair: Pair, text: bytes) -> None:
    done = pair.ours(["bash", "-c", "virsh -q -c test:///default 2>&1"], text)
    assert b"error: " in done.out
    assert b"\na" not in done.out and b"\nb" not in done.out


def test_ours_at_the_end_of_a_file_without_a_newline(pair: Pair) -> None:
    done = pair.ours([*VIRSH], b"migrate-start-postcopy nosuch")
    assert done.status == 0 and b"failed to get domain 'nosuch'" in done.err
    assert done.out.endswith(b"virsh # migrate-start-postcopy nosuch\n\nvirsh # \n")


def test_file_that_a_command_of_ours_names_is_looked_for_where_virsh_is(
    pair: Pair, tmp_path: Path
) -> None:
    text = f"cd {tmp_path}\nmigrate --live --strict-exit test test:///default --xml here.xml\n"
    done = pair.ours([*VIRSH], text.encode())
    assert b"cannot read file 'here.xml'" in done.err
    (tmp_path / "here.xml").write_text("<domain/>")
    done = pair.ours([*VIRSH], text.encode())
    assert b"cannot read" not in done.err and b"virDomainMigrate3" in done.err


def test_connect_counts_for_ours_too(pair: Pair) -> None:
    text = b"connect test:///default --readonly\nmigrate-start-postcopy test\n"
    done = pair.ours([*VIRSH], text)
    assert b"read only access prevents virDomainMigrateStartPostCopy" in done.err
    assert done.out.count(b"virsh > ") == 2


def test_connect_that_fails_changes_nothing_for_ours(pair: Pair) -> None:
    """Else a command of ours could go to a host that virsh is not connected to."""
    text = b"connect nosuch:///x --readonly\nmigrate-start-postcopy test\n"
    done = pair.ours([*VIRSH], text)
    assert b"not supported by the connection driver: virDomainMigrateStartPostCopy" in done.err  # fmt: skip
    assert done.out.count(b"virsh > ") == 0


BLIND = """
import builtins, sys
def open(path, *args, see=builtins.open, **more):
    if str(path).endswith("/syscall"):
        raise {error}
    return see(path, *args, **more)
builtins.open = open
sys.argv[0] = "virsh-postcopy"
from libvirt_postcopy.virsh.main import entry
entry()
"""


@pytest.mark.parametrize(
    "error, reason",
    [
        ('PermissionError(1, "Operation not permitted")', b"Operation not permitted"),
        ('FileNotFoundError(2, "No such file or directory")', b"No such file"),
    ],
)
def test_where_it_cannot_be_seen_what_virsh_does(
    pair: Pair, error: str, reason: bytes
) -> None:
    """Yama may forbid it, a kernel may not have it: only our own commands are refused then, each with one error."""
    text = b"suspend test\nmigrate-start-postcopy test\ndomstate test\nhelp postcopy\necho b\n"
    argv = [sys.executable, "-c", BLIND.format(error=error), *VIRSH[1:]]
    done = ended(argv, pair.environs[1], text)
    refused = b"error: cannot see what virsh is doing: " + reason
    lines = done.err.splitlines()
    assert [line[: len(refused)] for line in lines] == [refused, refused]
    assert done.status == 0 and b"paused" in done.out and b"\nb\n" in done.out


def test_line_of_a_here_document_that_is_indented(pair: Pair) -> None:
    text = b"\techo a\n\tmigrate-start-postcopy nosuch\n\techo b\n"
    done = pair.ours([*VIRSH], text)
    assert b"failed to get domain 'nosuch'" in done.err and b"unknown command" not in done.err  # fmt: skip
    assert b"migrate-start-postcopy nosuch\n" in done.out and b"\nb\n" in done.out


def test_help_lists_ours_too(pair: Pair) -> None:
    theirs, ours = pair.run([*VIRSH], b"help\necho b\n")
    group = ours.out.partition(b" Post-copy (help keyword 'postcopy'):\n")
    assert group[1] and b"    postcopy-recover " in group[2] and b"\nb\n" in group[2]
    assert theirs.out.startswith(group[0])


def test_nothing_is_read_that_virsh_would_have_left(pair: Pair) -> None:
    """What comes behind ``quit`` belongs to the next reader."""
    argv = ["bash", "-c", "{ virsh -q -c test:///default; cat; }"]
    theirs, ours = pair.run(argv, b"echo a\nquit\nthe rest\n")
    assert ours == theirs and b"the rest" in ours.out


def test_answers_come_line_by_line(pair: Pair) -> None:
    """A program that waits for each answer before it says more."""
    process = subprocess.Popen(
        ["virsh", "-q", "-c", "test:///default"],
        env=pair.environs[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    heard = bytearray()

    def hear(what: bytes) -> bool:
        heard.extend(process.stdout.read() or b"")
        return what in heard

    try:
        for number in (b"one", b"two"):
            process.stdin.write(b"echo " + number + b"\n")
            process.stdin.flush()
            answer = b"\n" + number + b"virsh # "
            wait_until(lambda what=answer: hear(what), "the answer", PATIENCE_S)
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
