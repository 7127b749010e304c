"""virsh's shell on a terminal: what is not ours is as in virsh's own, and our lines come in their turn."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from shim.conftest import (
    PATIENCE_S,
    Pair,
    catches,
    children_of,
    on_terminal,
    read_until,
    rest,
    sleeps,
    timeless,
    untouched,
)
from waiting import wait_until

VIRSH = ["virsh", "-c", "test:///default"]
PROMPT = b"virsh # "
OURS = b"migrate-start-postcopy nosuch"
FAILS = b"error: failed to get domain 'nosuch'"

LOOP = b"\0"
"""Not shown: virsh catches Ctrl-C from then on."""

READS = b"\1"
"""Not shown: who reads what is typed gets it as it is; our terminal passes it on a moment after it has shown what asks for it."""

Keys = Sequence[tuple[bytes, bytes]]
"""What is typed, and what is waited for after it to be shown, or :data:`LOOP` or :data:`READS`."""


def is_looping(process: int) -> bool:
    """Whether virsh, or the one behind us, waits for events; readline catches Ctrl-C too, but shows no letters."""
    virsh = next(iter(children_of(process)), process)
    terminal = os.open(f"/proc/{virsh}/fd/0", os.O_RDONLY | os.O_NOCTTY)
    try:
        return echoes(terminal) and catches(virsh, signal.SIGINT) and sleeps(virsh)
    finally:
        os.close(terminal)


def is_read(process: int, terminal: int) -> bool:
    """Whether what is typed goes to a command of virsh's, also by way of us."""
    is_virsh = Path(os.readlink(f"/proc/{process}/exe")).name == "virsh"
    return is_virsh or not echoes(terminal)


def environ(env: dict[str, str], folder: Path) -> dict[str, str]:
    return {**env, "TERM": "xterm", "XDG_CACHE_HOME": str(folder)}


def session(
    env: dict[str, str],
    keys: Keys,
    argv: Sequence[str] = VIRSH,
    first: bytes = PROMPT,
) -> tuple[int, bytes]:
    """Type at a shell of virsh's, as :func:`raw_session`, and leave out what tells a terminal how readline likes pastes."""
    status, shown = raw_session(env, keys, argv, first)
    return status, plain(shown)


def raw_session(
    env: dict[str, str],
    keys: Keys,
    argv: Sequence[str] = VIRSH,
    first: bytes = PROMPT,
) -> tuple[int, bytes]:
    """Type at a shell of virsh's.

    :param first: What is waited for before anything is typed.
    :return: Its exit status, and what was on the terminal.
    """
    with on_terminal(argv, env) as (process, terminal):
        shown = b""
        for typed, awaited in [(b"", first), *keys]:
            os.write(terminal, typed)
            if awaited == LOOP:
                wait_until(lambda: is_looping(process.pid), "its loop", PATIENCE_S)
            elif awaited == READS:
                wait_until(
                    lambda: is_read(process.pid, terminal), "a reader", PATIENCE_S
                )
            elif awaited:
                shown += read_until(terminal, awaited)
        status = process.wait(PATIENCE_S)
        shown += rest(terminal)
    return status, timeless(shown)


def plain(shown: bytes) -> bytes:
    return timeless(re.sub(rb"\x1b\[\?2004[hl]\r?", b"", shown))


def compare(
    pair: Pair,
    folder: Path,
    keys: Keys,
    argv: Sequence[str] = VIRSH,
    first: bytes = PROMPT,
) -> bytes:
    """Type the same at the real virsh and at ours; shown, kept in history and returned must be the same."""
    theirs, ours = (
        (
            *session(environ(env, folder / name), keys, argv, first),
            history(folder / name),
        )
        for env, name in zip(pair.environs, ("theirs", "ours"))
    )
    assert ours == theirs
    return theirs[1]


def history(folder: Path) -> str:
    file = folder / "libvirt" / "virsh" / "history"
    return file.read_text(encoding="utf-8") if file.exists() else ""


UP, LEFT, HOME = b"\x1b[A", b"\x1b[D", b"\x01"


@pytest.mark.parametrize("end", [b"quit\r", b"\x04"], ids=["quit", "ctrl-d"])
@pytest.mark.parametrize(
    "lines",
    [
        [b"list", b"", b"list", UP, UP + UP],
        [b"cd /tmp", b"pwd", b"cd /nonexistent", b"list --foo", b"frobnicate"],
        [b"suspend test", b"domstate test", b"resum test" + LEFT * 5 + b"e"],
        ["echo \u00e9".encode(), b"echo 'a b' \\; list; echo c", b"# nothing", b"echo \\"],
        [b"echo " + b"x" * 3000, b"echo " + b"a b " * 30],
        [b"domstate te" + HOME + b"# ", b"help list", b"lis\t"],
    ],
)  # fmt: skip
def test_what_is_not_ours(
    pair: Pair, tmp_path: Path, lines: list[bytes], end: bytes
) -> None:
    typed = [(line + b"\r", PROMPT) for line in lines]
    if any(len(line) > 80 or b"\t" in line for line in lines):
        lines_shown = compare_answers(pair, tmp_path, [*typed, (end, b"")])
        assert lines_shown
        return
    compare(pair, tmp_path, [*typed, (end, b"")])


def compare_bytes(
    pair: Pair, folder: Path, keys: Keys, argv: Sequence[str] = VIRSH
) -> None:
    """As :func:`compare`, and what steers the terminal must be the same too."""
    theirs, ours = (
        (*raw_session(environ(env, folder / name), keys, argv), history(folder / name))
        for env, name in zip(pair.environs, ("theirs", "ours"))
    )
    assert ours == theirs


def compare_answers(pair: Pair, folder: Path, keys: Keys) -> list[bytes]:
    """As :func:`compare`, but how readline folds a long line may be its own affair."""
    found = []
    for env, name in zip(pair.environs, ("theirs", "ours")):
        _, shown = session(environ(env, folder / name), keys)
        found.append((b"".join(shown.split()), history(folder / name)))
    assert found[0][1] == found[1][1]
    words = [re.sub(rb"[^a-z#]", b"", shown) for shown, _ in found]
    assert words[0] == words[1]
    return words


def test_command_that_wants_the_terminal(pair: Pair, tmp_path: Path) -> None:
    """Ctrl-C is the command's; an editor has the terminal, and its size."""
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nstty size\nread line\necho got $line\n")
    editor.chmod(0o700)
    keys = [
        (b"event --loop --event lifecycle\r", LOOP),
        (b"\x03", PROMPT),
        (b"edit test\r", b"30 100\r\n"),
        (b"", READS),
        (b"a line\r", PROMPT),
        (b"quit\r", b""),
    ]
    argv = [
        "sh",
        "-c",
        f"stty rows 30 cols 100; VISUAL={editor} exec {' '.join(VIRSH)}",
    ]
    shown = compare(pair, tmp_path, keys, argv)
    assert b"event loop interrupted" in shown and b"got a line" in shown


def test_password(pair: Pair, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon.xml"
    daemon.write_text(
        "<node><auth><user password='sesame'>alice</user></auth></node>",
        encoding="utf-8",
    )
    argv = ["virsh", "-q", "-c", f"test://{daemon}"]
    for env in pair.environs:
        with on_terminal(argv, environ(env, tmp_path)) as (process, terminal):
            read_until(terminal, b"Enter username for localhost: ")
            os.write(terminal, b"alice\r")
            read_until(terminal, b"Enter alice's password for localhost: ")
            wait_until(lambda t=terminal: not echoes(t), "no echo", PATIENCE_S)
            os.write(terminal, b"sesame\r")
            assert b"sesame" not in read_until(terminal, PROMPT)
            os.write(terminal, b"quit\r")
            assert process.wait(PATIENCE_S) == 0


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def test_connection_that_cannot_be_opened(pair: Pair, tmp_path: Path) -> None:
    argv = ["virsh", "-c", "nosuch:///x"]
    compare(pair, tmp_path, [(b"", b"")], argv, first=b"error: ")


def test_prompt_of_a_read_only_connection(pair: Pair, tmp_path: Path) -> None:
    keys = [
        (b"connect test:///default --readonly\r", b"virsh > "),
        (b"suspend test\r", b"virsh > "),
        (b"connect test:///default\r", PROMPT),
        (b"quit\r", b""),
    ]
    compare(pair, tmp_path, keys)


TYPED = {signal.SIGINT: b"\x03", signal.SIGQUIT: b"\x1c"}


@pytest.mark.parametrize("number", [*TYPED, signal.SIGTERM, signal.SIGHUP])
def test_signal_at_the_prompt(
    pair: Pair, tmp_path: Path, number: signal.Signals
) -> None:
    """It ends us as it ends virsh, and the terminal is left as it was."""
    statuses = []
    for env in pair.environs:
        with on_terminal(VIRSH, environ(env, tmp_path)) as (process, terminal):
            read_until(terminal, PROMPT)
            wait_until(lambda t=terminal: not echoes(t), "readline", PATIENCE_S)
            wait_until(lambda p=process: sleeps(p.pid), "a wait for a line", PATIENCE_S)
            if number in TYPED:
                os.write(terminal, TYPED[number])
            else:
                process.send_signal(number)
            statuses.append(process.wait(PATIENCE_S))
            assert termios.tcgetattr(terminal) == untouched()
    assert statuses[0] == statuses[1]


def type_at_ours(pair: Pair, folder: Path, keys: Keys) -> bytes:
    status, shown = session(environ(pair.environs[1], folder), keys)
    assert status == 0
    return shown


def test_ours_comes_in_its_turn_on_virshs_own_connection(
    pair: Pair, tmp_path: Path
) -> None:
    lines = [
        b"suspend test",
        OURS,
        b"domstate test",
        b"echo a; " + OURS + b"; echo b",
        UP,
    ]
    keys = [(line + b"\r", PROMPT) for line in lines]
    shown = type_at_ours(pair, tmp_path, [*keys, (b"quit\r", b"")])
    assert shown.count(FAILS) == 3 and b"unknown command" not in shown
    assert b"paused" in shown
    a, failed, b = (shown.rindex(each) for each in (b"\na\r", FAILS, b"\nb\r"))
    assert a < failed < b
    kept = history(tmp_path).splitlines()
    assert kept == [line.decode() for line in [*lines[:4], lines[3], b"quit"]]


def test_connect_and_cd_count_for_ours(pair: Pair, tmp_path: Path) -> None:
    words = b"migrate --live --strict-exit test test:///default --xml here.xml"
    lines = [b"connect nosuch:///x", b"cd " + os.fsencode(tmp_path), words, b"connect test:///default --readonly", b"migrate-start-postcopy test"]  # fmt: skip
    waits = [PROMPT, PROMPT, PROMPT, b"virsh > ", b"virsh > "]
    keys = [(line + b"\r", wait) for line, wait in zip(lines, waits)]
    shown = type_at_ours(pair, tmp_path, [*keys, (b"quit\r", b"")])
    assert b"cannot read file 'here.xml'" in shown
    assert b"read only access prevents virDomainMigrateStartPostCopy" in shown


def test_lines_that_are_pasted_at_once(pair: Pair, tmp_path: Path) -> None:
    text = b"echo a\r" + OURS + b"\recho b\r" + OURS + b"\rquit\r"
    shown = type_at_ours(pair, tmp_path, [(text, b"")])
    assert shown.count(FAILS) == 2 and b"unknown command" not in shown


def test_lines_that_are_typed_before_there_is_a_prompt(
    pair: Pair, tmp_path: Path
) -> None:
    """By a program that does not wait for one."""
    with on_terminal(VIRSH, environ(pair.environs[1], tmp_path)) as (process, terminal):
        os.write(terminal, b"echo a\r" + OURS + b"\rquit\r")
        shown = read_until(terminal, FAILS)
        assert process.wait(PATIENCE_S) == 0
    assert b"unknown command" not in shown


def test_ours_is_completed_too(pair: Pair, tmp_path: Path) -> None:
    keys = [
        (b"postcopy-rec\t", b"postcopy-recover "),
        (b"te\t", b"test "),
        (b"--str\t", b"--strict-exit "),
        (b"\x15quit\r", b""),
    ]
    type_at_ours(pair, tmp_path, keys)


def test_where_only_a_part_of_it_is_a_terminal(pair: Pair, tmp_path: Path) -> None:
    """It is virsh itself then."""
    argv = ["sh", "-c", f"exec {' '.join(VIRSH)} 2>/dev/null"]
    with on_terminal(argv, environ(pair.environs[1], tmp_path)) as (process, terminal):
        read_until(terminal, PROMPT)
        assert os.readlink(f"/proc/{process.pid}/exe") == os.path.realpath(pair.virsh)


def editor(folder: Path, *lines: str) -> str:
    """A program that ``edit`` runs at virsh's terminal, as ``VISUAL`` names it."""
    file = folder / "editor"
    file.write_text("\n".join(["#!/bin/bash", *lines, ""]), encoding="utf-8")
    file.chmod(0o700)
    return str(file)


def test_keys_reach_a_command_that_prints_without_a_pause(
    pair: Pair, tmp_path: Path
) -> None:
    flood = editor(tmp_path, "yes & read line", "kill $!", "echo got $line")
    env = {**environ(pair.environs[1], tmp_path), "VISUAL": flood}
    shown = session(env, [(b"edit test\r", b"y\r\ny\r\n"), (b"", READS), (b"a key\r", PROMPT), (b"quit\r", b"")])[1]  # fmt: skip
    assert b"got a key" in shown


def test_no_key_is_lost_while_a_command_does_not_read(
    pair: Pair, tmp_path: Path
) -> None:
    typed = b"".join(b"%06d\r" % number for number in range(10_000))
    reader = editor(
        tmp_path,
        "stty raw -echo",
        "echo ready",
        f"until [ -e {tmp_path}/full ]; do sleep 0.01; done",
        f"head -c {len(typed)} | sha256sum",
        "stty sane",
    )
    env = {**environ(pair.environs[1], tmp_path), "VISUAL": reader}
    with on_terminal(VIRSH, env) as (process, terminal):
        read_until(terminal, PROMPT)
        os.write(terminal, b"edit test\r")
        read_until(terminal, b"ready")
        wait_until(lambda: is_read(process.pid, terminal), "a reader", PATIENCE_S)
        at = 0

        def type_up_to(end: int) -> bool:
            nonlocal at
            with suppress(BlockingIOError):
                at += os.write(terminal, typed[at : min(at + 1024, end)])
            return at == end

        # More than two terminals keep (8192 bytes on their way, 4096 to be read).
        wait_until(lambda: type_up_to(25_000), "keys that wait", PATIENCE_S)
        (tmp_path / "full").touch()
        wait_until(lambda: type_up_to(len(typed)), "the last key", PATIENCE_S)
        read_until(terminal, hashlib.sha256(typed).hexdigest().encode())


def pasted(text: bytes) -> bytes:
    return b"\x1b[200~" + text + b"\x1b[201~"


def test_lines_that_are_pasted_wait_for_enter(pair: Pair, tmp_path: Path) -> None:
    text = b"echo a # not b\r" + OURS + b"\recho 'c d'"
    keys = [
        (pasted(text) + b"\x15echo nothing\r", PROMPT),
        (pasted(text) + b"\r", b"c d\r\n"),
        (b"quit\r", b""),
    ]
    shown = type_at_ours(pair, tmp_path, keys)
    assert shown.count(FAILS) == 1 and b"unknown command" not in shown
    nothing, a, failed, c = (shown.index(each) for each in (b"\nnothing", b"\na\r", FAILS, b"\nc d\r"))  # fmt: skip
    assert nothing < a < failed < c


@pytest.mark.parametrize("inputrc", ["", "set enable-bracketed-paste off", "$if mode=emacs\n set enable-bracketed-paste off\n$endif"])  # fmt: skip
def test_pastes(pair: Pair, tmp_path: Path, inputrc: str) -> None:
    """The keys of a paste are what the user's inputrc makes of them, and a word may go over the end of its line."""
    file = tmp_path / "inputrc"
    file.write_text(inputrc, encoding="utf-8")
    argv = ["env", f"INPUTRC={file}", *VIRSH]
    first = b"list\recho 'c\rd' # not e\recho \"f\r\rg\""
    keys = [(pasted(first) + b"\r", b"\ng\r\n" + PASTES[not inputrc] + PROMPT)]
    compare_bytes(pair, tmp_path, [*keys, (b"quit\r", b"")], argv)


PASTES = (b"", b"\x1b[?2004h")


def test_word_of_ours_goes_over_the_end_of_its_line(pair: Pair, tmp_path: Path) -> None:
    text = b"echo a\rmigrate-start-postcopy 'no\rsuch'; echo 'b\rc'"
    keys = [(pasted(text) + b"\r", b"\nc\r\n"), (b"quit\r", b"")]
    shown = type_at_ours(pair, tmp_path, keys)
    assert b"failed to get domain 'no\\nsuch'" in shown and b"\nb\r\nc\r\n" in shown


def test_mistake_in_lines_that_are_pasted_runs_nothing(
    pair: Pair, tmp_path: Path
) -> None:
    text = b"echo a # list\rlist --foo\r" + OURS
    keys = [(pasted(text) + b"\r", PROMPT), (b"quit\r", b"")]
    shown = type_at_ours(pair, tmp_path, keys)
    assert b"command 'list' doesn't support option --foo" in shown
    assert b"\na\r" not in shown and FAILS not in shown


WAITS = b"event --loop --timeout 3 --event lifecycle\r"
"""A command that reads nothing, and ends by itself, when there has been time enough to type ahead."""


def test_what_is_typed_ahead_of_a_command_is_left_for_the_next_prompt(
    pair: Pair, tmp_path: Path
) -> None:
    with on_terminal(VIRSH, environ(pair.environs[1], tmp_path)) as (process, terminal):
        read_until(terminal, PROMPT)
        os.write(terminal, WAITS)
        wait_until(lambda: is_looping(process.pid), "its loop", PATIENCE_S)
        os.write(terminal, b"echo a\r" + OURS + b"\recho ah")
        shown = read_until(terminal, PROMPT + b"echo ah")
        os.write(terminal, b"ead\r")
        shown += read_until(terminal, b"ahead\r\n")
        os.write(terminal, b"quit\r")
        assert process.wait(PATIENCE_S) == 0
    assert b"event loop timed out" in shown and b"unknown command" not in shown


def test_typed_ahead_looks_as_at_virsh(pair: Pair, tmp_path: Path) -> None:
    keys = [(WAITS, LOOP), (b"domstate test\recho", PROMPT + b"echo"), (b" b\r", b"\rb\r\n"), (b"quit\r", b"")]  # fmt: skip
    compare_bytes(pair, tmp_path, keys)


def test_ctrl_c_ends_a_command_that_reads_nothing(pair: Pair, tmp_path: Path) -> None:
    """And throws away what was typed ahead, as a terminal does."""
    keys = [
        (b"event --loop --event lifecycle\r", LOOP),
        (b"echo a\r", b"echo a\r\n"),
        (b"\x03", PROMPT),
        (b"echo b\r", b"\rb\r\n"),
        (b"quit\r", b""),
    ]
    shown = compare(pair, tmp_path, keys)
    assert b"\na\r" not in shown


BLIND = """
import builtins, sys
def open(path, *args, see=builtins.open, **more):
    if str(path).endswith("/syscall"):
        raise PermissionError(1, "Operation not permitted")
    return see(path, *args, **more)
builtins.open = open
sys.argv[0] = "virsh-postcopy"
from libvirt_postcopy.virsh.main import entry
entry()
"""


def test_where_it_cannot_be_seen_who_reads(pair: Pair, tmp_path: Path) -> None:
    """A question is answered a moment later then."""
    daemon = tmp_path / "daemon.xml"
    text = "<node><auth><user>alice</user></auth></node>"
    daemon.write_text(text, encoding="utf-8")
    argv = [sys.executable, "-c", BLIND, "-c", f"test://{daemon}"]
    asked = b"username for localhost: "
    keys = [(b"alice\r", PROMPT), (OURS + b"\r", asked), (b"alice\r", PROMPT), (b"quit\r", b"")]  # fmt: skip
    env = environ(pair.environs[1], tmp_path)
    assert session(env, keys, argv, asked)[0] == 0


JOB_CONTROL = "set -m; {virsh}; stty -a; read go; fg >/dev/null; echo status $?"
"""What a shell does where a job of its own is stopped."""


@pytest.mark.parametrize("is_running", [False, True], ids=["prompt", "command"])
def test_who_is_stopped_goes_on(pair: Pair, tmp_path: Path, is_running: bool) -> None:
    reads = editor(tmp_path, "echo ready", "read line", "echo got $line")
    env = {**environ(pair.environs[1], tmp_path), "VISUAL": reads}
    shell = ["bash", "-c", JOB_CONTROL.format(virsh=" ".join(VIRSH))]
    with on_terminal(shell, env) as (process, terminal):
        read_until(terminal, PROMPT)
        os.write(terminal, b"edit test\r" if is_running else b"echo on")
        read_until(terminal, b"ready\r\n" if is_running else b"echo on")
        os.write(terminal, b"\x1a")
        modes = read_until(terminal, b"extproc")
        assert b" icanon" in modes and b" echo " in modes
        wait_until(lambda: len(children_of(process.pid)) == 1, "stty's end", PATIENCE_S)
        [ours] = children_of(process.pid)
        [virsh] = children_of(ours)
        wait_until(lambda: state(ours) == state(virsh) == "T", "a stop", PATIENCE_S)
        os.write(terminal, b"go\r")
        if not is_running:
            read_until(terminal, PROMPT + b"echo on")
        os.write(terminal, b"ly\r")
        said = b"got ly\r" if is_running else b"\ronly\r"
        assert said in read_until(terminal, PROMPT)
        os.write(terminal, b"quit\r")
        read_until(terminal, b"status 0")


LATE = """
import signal, sys
def put_back(number, handler, put=signal.signal):
    if handler == signal.SIG_DFL and getattr(signal.getsignal(number), "__name__", "") == "_stop_typing":
        signal.signal = put
        print("late", flush=True)
        signal.raise_signal(number)
    return put(number, handler)
signal.signal = put_back
sys.argv[0] = "virsh-postcopy"
from libvirt_postcopy.virsh.main import entry
entry()
"""
"""Ctrl-Z comes when a line has been read, and before its handler is put away."""


def test_ctrl_z_just_after_a_line_loses_nothing(pair: Pair, tmp_path: Path) -> None:
    """The system stops nobody here: no shell is there to let us go on."""
    argv = [sys.executable, "-c", LATE, *VIRSH[1:]]
    env = environ(pair.environs[1], tmp_path)
    status, shown = session(env, [(b"echo a\r", PROMPT), (b"quit\r", b"")], argv)
    assert status == 0 and b"late\r\na\r\n" in shown


def state(process: int) -> str:
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_terminal_that_goes_away_during_a_command(pair: Pair, tmp_path: Path) -> None:
    statuses = []
    for env in pair.environs:
        terminal, theirs = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *VIRSH],
            env=environ(env, tmp_path),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            read_until(terminal, PROMPT)
            os.write(terminal, b"event --loop --event lifecycle\r")
            read_until(terminal, b"lifecycle\r\n")
            os.close(terminal)
            statuses.append(process.wait(PATIENCE_S))
        finally:
            process.kill()
            process.wait(PATIENCE_S)
    assert statuses == [-signal.SIGHUP] * 2


def test_completion_is_from_the_connection_of_now(pair: Pair, tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(
        "<node><domain type='test'><name>elsewhere</name><memory>1024</memory>"
        "<os><type>hvm</type></os></domain></node>",
        encoding="utf-8",
    )
    keys = [
        (b"connect test://" + os.fsencode(node) + b"\r", PROMPT),
        (b"migrate-start-postcopy else\t", b"elsewhere "),
        (b"\x15quit\r", b""),
    ]
    type_at_ours(pair, tmp_path, keys)
