from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from libvirt_postcopy.errors import (
    GuestLost,
    LibvirtError,
    MigrationCancelled,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
    refusal,
)
from libvirt_postcopy.virsh import main as program
from libvirt_postcopy.virsh.main import main
from libvirt_postcopy.virsh.texts import LeftAlone
from unit.fakes import refused

MIGRATE = ["migrate", "--live", "--postcopy", "web1", "b:///"]

SHIM = str(Path(sys.executable).with_name("virsh-postcopy"))

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing is left to be flushed at the end."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for the module that a verb is run by."""
    scene = SimpleNamespace(error=None, calls=[], modules=[])

    def run(given, options, terminal, signals) -> None:
        scene.calls.append((given, options))
        if scene.error is not None:
            raise scene.error

    def import_module(name: str) -> SimpleNamespace:
        scene.modules.append(name)
        return SimpleNamespace(run=run)

    monkeypatch.setattr(program, "import_module", import_module)
    monkeypatch.delenv("LIBVIRT_POSTCOPY_DEBUG", raising=False)
    return scene


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What went to the real virsh."""
    seen: list[list[str]] = []
    monkeypatch.setattr(program, "exec_virsh", lambda words: seen.append(words) or 0)
    return seen


def test_success_prints_virshs_blank_line(
    runs: SimpleNamespace, capsys: Capture
) -> None:
    assert main(MIGRATE) == 0
    assert capsys.readouterr() == ("\n", "")
    [(given, options)] = runs.calls
    assert given["domain"] == "web1" and options.connect is None
    assert runs.modules == ["libvirt_postcopy.virsh.migrate"]


def test_quiet_prints_nothing(runs: SimpleNamespace, capsys: Capture) -> None:
    assert main(["-q", *MIGRATE]) == 0
    assert main(["-qt", *MIGRATE]) == 0
    assert capsys.readouterr() == ("", "")


def test_timing_is_printed_as_virsh_does(
    runs: SimpleNamespace, capsys: Capture
) -> None:
    assert main(["-t", *MIGRATE]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\n(Time: ") and out.endswith(" ms)\n\n")


@pytest.mark.parametrize(
    "verb", ["migrate-start-postcopy", "migrate-postcopy"]
)  # fmt: skip
def test_verbs_that_switch(runs: SimpleNamespace, verb: str) -> None:
    assert main(["-c", "a:///", verb, "web1"]) == 0
    [(given, options)] = runs.calls
    assert given == {"domain": "web1"} and options.connect == "a:///"
    assert runs.modules == ["libvirt_postcopy.virsh.switch"]


LIBVIRT = refusal(LibvirtError("no"), refused(1, "no"))


@pytest.mark.parametrize(
    "error, status, strict",
    [
        (PostcopyError("x"), 1, 1),
        (UsageError("x"), 1, 1),
        (NotSupportedError("x"), 1, 1),
        (StateError("x"), 1, 1),
        (LibvirtError("x"), 1, 1),
        (LIBVIRT, 1, 1),
        (MigrationFailed("x"), 1, 1),
        (MigrationCancelled("x"), 1, 1),
        (PostcopyBroken("x"), 3, 1),
        (refusal(PostcopyBroken("x"), refused(1, "x")), 3, 1),
        (MigrationUnknown("x"), 3, 1),
        (LeftAlone("x", guest="split"), 3, 1),
        (LeftAlone("x", guest="unknown"), 3, 1),
        (LeftAlone("x", guest="source"), 1, 1),
        (GuestLost("x"), 4, 1),
        (KeyboardInterrupt(), 1, 1),
        (ValueError("x"), 1, 1),
    ],
)
def test_exit_status(
    runs: SimpleNamespace,
    capsys: Capture,
    error: BaseException,
    status: int,
    strict: int,
) -> None:
    runs.error = error
    assert main(MIGRATE) == status
    assert main([*MIGRATE, "--strict-exit"]) == strict
    out, err = capsys.readouterr()
    assert out == "\n\n"
    lines = err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ")


def test_error_is_one_harmless_line(runs: SimpleNamespace, capsys: Capture) -> None:
    runs.error = UsageError("bad\nnews \x1b[2J", side="destination", cure="do\nthis")
    main(MIGRATE)
    assert (
        capsys.readouterr().err
        == "error: destination: bad news \\x1b[2J (do this)\n"
    )  # fmt: skip


def test_traceback_is_shown_only_to_who_debugs(
    runs: SimpleNamespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.error = ValueError("surprise")
    assert main(MIGRATE) == 1
    assert capsys.readouterr().err == (
        "error: unexpected, please report: ValueError: surprise\n"
    )
    monkeypatch.setenv("LIBVIRT_POSTCOPY_DEBUG", "1")
    assert main(MIGRATE) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--foo"], "command 'migrate' doesn't support option --foo"),
        (["--postcopy"], "option --postcopy already seen"),
        (["--bandwidth"], "expected syntax: --bandwidth <number>"),
        (["--postcopy-after", "x"], "invalid postcopy-after parameter"),
    ],
)
def test_bad_options_run_nothing(
    runs: SimpleNamespace, capsys: Capture, words: list[str], complaint: str
) -> None:
    assert main([*MIGRATE, *words]) == 1
    assert capsys.readouterr() == ("", f"error: {complaint}\n")
    assert runs.calls == []


def test_help_is_ours(runs: SimpleNamespace, capsys: Capture) -> None:
    assert main(["migrate", "--help"]) == 0
    out, err = capsys.readouterr()
    assert "--postcopy-after <number>" in out and "--bandwidth <number>" in out
    assert err == "" and runs.calls == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "list",
        "-c test:///default list --all",
        "--version",
        "-h",
        "-z",
        "--k",
        "migrate --live a b",
        "migrate --foo",
        "-q -c x migrate --live --postcopy --timeout 5 a b",
        "help migrate",
        "frobnicate",
    ],
)
def test_all_else_goes_to_virsh_as_it_is(passed: list[list[str]], line: str) -> None:
    assert main(line.split()) == 0
    assert passed == [line.split()]


def test_command_string_goes_to_virsh(passed: list[list[str]]) -> None:
    strings = ["list; list --all", "migrate --live --postcopy a b", "# x", " "]
    for string in strings:
        main([string])
    assert passed == [[string] for string in strings]


def test_no_virsh_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("VIRSH_POSTCOPY_VIRSH", raising=False)
    assert main(["list"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no virsh on PATH (")


def test_line_that_was_being_rewritten_is_left_before_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def run(given, options, terminal, signals) -> None:
        terminal.rewrite("50 %")
        raise UsageError("no")

    verb = SimpleNamespace(run=run)
    monkeypatch.setattr(program, "import_module", lambda name: verb)
    assert main(["-q", *MIGRATE]) == 1
    assert capsys.readouterr().err == "\r50 %\nerror: no\n"


def test_verb_catches_signals_and_the_caller_gets_them_back(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    caught = []

    def run(given, options, terminal, signals) -> None:
        signals.catch()
        signal.raise_signal(signal.SIGINT)
        caught.append(signals.take())

    verb = SimpleNamespace(run=run)
    monkeypatch.setattr(program, "import_module", lambda name: verb)
    assert main(MIGRATE) == 0
    assert caught == [1]
    assert signal.getsignal(signal.SIGINT) is before


# A program whose verb is ours, in a process of its own

PLAYED = """
import os, signal, sys, threading
from types import SimpleNamespace
from libvirt_postcopy.errors import GuestLost, PostcopyBroken
from libvirt_postcopy.virsh import main as program
from libvirt_postcopy.virsh.terminal import Terminal

def run(given, options, terminal, signals):
    signals.catch()
    {body}

program.import_module = lambda name: SimpleNamespace(run=run)
sys.argv = ["virsh-postcopy", "migrate", "--live", "--postcopy", "a", "b"]
program.entry()
"""

REDIRECTIONS = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"]  # fmt: skip


def play(body: str, redirection: str = "") -> tuple[int, str, str]:
    code = shlex.quote(PLAYED.format(body=body))
    shell = f"set -o pipefail; {sys.executable} -c {code} {redirection}"
    status, out, err = run(["bash", "-c", shell])
    return status, out.decode(), err.decode()


@pytest.mark.parametrize("redirection", ["", *REDIRECTIONS, "| true", "2>&1 | true"])
@pytest.mark.parametrize(
    "body, status",
    [
        ("pass", 0),
        ("raise PostcopyBroken('x')", 3),
        ("raise GuestLost('x')", 4),
        ("sys.stdout.write('left in the buffer'); raise GuestLost('x')", 4),
    ],
)
def test_stream_that_takes_nothing_leaves_the_status(
    redirection: str, body: str, status: int
) -> None:
    got, _, err = play(body, redirection)
    assert got == status
    assert err in ("", "error: x\n")


def test_no_connection_gets_the_number_of_a_closed_stream() -> None:
    body = "os.open('/', 0) > 2 or os._exit(9)"
    assert play(body, "<&- >&- 2>&-")[0] == 0


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_after_the_end_changes_nothing(number: str) -> None:
    """Each time something is printed or flushed from the verb's end to the program's, one comes."""
    body = f"""
    hit = lambda *_: signal.raise_signal(signal.{number})
    real = Terminal.print
    Terminal.print = lambda self, text: (hit(), real(self, text), hit())
    flush = program.flush_streams
    program.flush_streams = lambda: (hit(), flush(), hit())
"""
    assert play(body) == (0, "\n", "")


def test_thread_of_libvirts_does_not_hold_up_the_end() -> None:
    body = "threading.Thread(target=threading.Event().wait).start()"
    assert play(body) == (0, "\n", "")


# The program itself, beside the real one


def run(argv: list[str]) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--all"],
        ["-q", "list", "--name"],
        ["list", "--foo"],
        ["domstate", "nosuch"],
        ["echo", "--shell", "a b", "c'd"],
        ["echo a; echo b"],
        ["migrate"],
        ["migrate", "--live", "test"],
        ["migrate", "--postcopy-bandwidth", "x", "nosuch", "b"],
        ["-k", "x", "list"],
    ],
)
def test_passing_through_is_not_noticed(words: list[str]) -> None:
    words = ["-c", "test:///default", *words]
    assert run([SHIM, *words]) == run(["virsh", *words])


@pytest.mark.parametrize("redirection", [*REDIRECTIONS, "| true", "2>&1 | cat"])
@pytest.mark.parametrize("words", ["domstate test", "list", "domstate nosuch"])
def test_virsh_gets_the_streams_as_they_are(words: str, redirection: str) -> None:
    virsh, ours = (
        run(["bash", "-c", f"set -o pipefail; {each} -c test:///default {words} {redirection}"])
        for each in ("virsh", SHIM)
    )  # fmt: skip
    assert ours == virsh


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_no_virsh_with_a_closed_stream(redirection: str) -> None:
    shell = f"PATH=/nonexistent VIRSH_POSTCOPY_VIRSH= {SHIM} list {redirection}"
    status, out, err = run(["bash", "-c", shell])
    assert (status, out) == (1, b"")
    assert err == b"" or err.startswith(b"error: there is no virsh on PATH")
    assert bool(err) == ("2>" not in redirection)


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_refusal_with_a_closed_stream(redirection: str) -> None:
    words = "-c test:///default migrate-postcopy test"
    status, out, err = run(["bash", "-c", f"{SHIM} {words} {redirection}"])
    assert status == 1
    assert out in (b"", b"\n")
    assert err == b"" or err.startswith(b"error: source: this function is not")


def test_nothing_heavy_is_imported_on_the_way_to_virsh() -> None:
    code = """
import sys
from libvirt_postcopy.virsh import main as program
program.exec_virsh = lambda words: 0
program.main(["-c", "test:///default", "list"])
program.main(["migrate", "--live", "a", "b"])
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "libvirt_postcopy.virsh.verbs" in loaded
    for heavy in ("libvirt", "libvirtmod", "libvirt_qemu", "lxml", "cffi", "qemu",
                  "asyncio", "argparse", "subprocess", "xml", "libvirt_postcopy.api"):  # fmt: skip
        assert heavy not in loaded


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["migrate", "--live", "--postcopy", "nosuch", "b"],
         "error: source: failed to get domain 'nosuch': Domain not found"),
        (["migrate-start-postcopy", "nosuch"],
         "error: source: failed to get domain 'nosuch': Domain not found"),
        (["migrate-postcopy", "test"],
         "error: source: this function is not supported by the connection driver: virDomainMigrateStartPostCopy"),
        (["migrate", "--postcopy", "test", "b"],
         "error: source: post-copy migration is not supported with non-live or paused migration (add --live)"),
        (["-r", "migrate", "--live", "--postcopy", "test", "b"],
         "error: operation forbidden: read only access prevents virDomainMigrate3 (leave out -r)"),
        (["-r", "migrate-postcopy", "test"],
         "error: operation forbidden: read only access prevents virDomainMigrateStartPostCopy (leave out -r)"),
    ],
)  # fmt: skip
def test_refusals_of_the_real_library(words: list[str], complaint: str) -> None:
    status, out, err = run([SHIM, "-c", "test:///default", *words])
    assert (status, out, err.decode()) == (1, b"\n", f"{complaint}\n")


def test_source_that_cannot_be_reached() -> None:
    words = ["migrate", "--live", "--postcopy", "test", "b"]
    status, _, err = run(
        [SHIM, "-c", "qemu+unix:///system?socket=/nonexistent/socket", *words]
    )
    assert status == 1
    assert err.startswith(b"error: source: failed to connect to the hypervisor: ")
    assert err.count(b"\n") == 1
