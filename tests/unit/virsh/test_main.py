from __future__ import annotations

import io
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
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
from libvirt_postcopy.virsh.help import overview
from libvirt_postcopy.virsh.main import main
from libvirt_postcopy.virsh.refusals import NotBegunError
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
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("options", ["-t", "-qt"])
def test_timing_is_printed_as_virsh_does(
    runs: SimpleNamespace, capsys: Capture, options: str
) -> None:
    assert main([options, *MIGRATE]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\n(Time: ") and out.endswith(" ms)\n\n")


def test_ending_comes_after_the_error(
    runs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    runs.error = UsageError("no")
    assert main(MIGRATE) == 1
    assert both.getvalue() == "error: no\n\n"


def test_nothing_ends_where_virsh_would_not_have_begun(
    runs: SimpleNamespace, capsys: Capture
) -> None:
    runs.error = NotBegunError("failed to connect to the hypervisor: no")
    for options in ("-c", "-tc", "-qtc"):
        assert main([options, "x:///", *MIGRATE]) == 1
    assert capsys.readouterr().out == ""


def test_flags_are_called_by_what_was_typed(
    runs: SimpleNamespace, capsys: Capture
) -> None:
    runs.error = UsageError("post-copy and VIR_MIGRATE_PAUSED do not go together")
    main(MIGRATE)
    said = capsys.readouterr().err
    assert said == "error: post-copy and --suspend do not go together\n"


@pytest.mark.parametrize(
    "verb", ["migrate-start-postcopy", "migrate-postcopy"]
)  # fmt: skip
def test_verbs_that_switch(runs: SimpleNamespace, verb: str) -> None:
    assert main(["-c", "a:///", verb, "web1"]) == 0
    [(given, options)] = runs.calls
    assert given == {"domain": "web1"} and options.connect == "a:///"
    assert runs.modules == ["libvirt_postcopy.virsh.switch"]
    runs.error = PostcopyBroken("x")
    assert main([verb, "web1"]) == 3
    assert main([verb, "web1", "--strict-exit"]) == 1


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
    ],
)
def test_bad_options_run_nothing(
    runs: SimpleNamespace, capsys: Capture, words: list[str], complaint: str
) -> None:
    assert main([*MIGRATE, *words]) == 1
    assert capsys.readouterr() == ("", f"error: {complaint}\n")
    assert runs.calls == []


@pytest.mark.parametrize(
    "words, complaint",
    [
        (
            ["--postcopy-after", "x"],
            "invalid postcopy-after parameter (write 30, 30s, 5m, 2h or 300ms)",
        ),
        (
            ["--bandwidth", "x"],
            "Numeric value 'x' for <bandwidth> option is malformed or out of range",
        ),
    ],
)
def test_bad_values_are_found_by_the_command(
    runs: SimpleNamespace, capsys: Capture, words: list[str], complaint: str
) -> None:
    """So the blank line comes, as after every command that was come to."""
    assert main([*MIGRATE, *words]) == 1
    assert capsys.readouterr() == ("\n", f"error: {complaint}\n")
    assert runs.calls == []


def test_all_that_is_missing_is_complained_of(
    runs: SimpleNamespace, capsys: Capture
) -> None:
    assert main(["migrate", "--enable-postcopy"]) == 1
    assert capsys.readouterr() == (
        "",
        (
            "error: command 'migrate' requires <domain> option\n"
            "error: command 'migrate' requires <desturi> option\n"
        ),
    )


def test_debug_level_that_virsh_ignores(runs: SimpleNamespace, capsys: Capture) -> None:
    assert main(["-d", "9", *MIGRATE]) == 0
    said = capsys.readouterr().err
    assert said == "error: ignoring debug level 9 out of range [0-4]\n"


@pytest.mark.programs
@pytest.mark.parametrize(
    "line",
    ["migrate --help", "help migrate", "help --command migrate", "help --command=migrate"],
)  # fmt: skip
def test_help_is_ours(runs: SimpleNamespace, capsys: Capture, line: str) -> None:
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("  NAME\n    migrate - ") and out.endswith("\n\n\n")
    assert "--postcopy-after <duration>" in out and "--bandwidth <number>" in out
    assert err == "" and runs.calls == []
    assert main(["-q", *line.split()]) == 0
    assert capsys.readouterr().out == out[:-1]


@pytest.mark.parametrize(
    "line", ["help", "-q help", "--help", "-h list", "-c x:/// help"]
)
def test_list_of_all_commands_ends_with_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, line: str
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(program, "run_virsh", lambda words: seen.append(words) or 0)
    assert main(line.split()) == 0
    assert seen == [line.split()]
    assert capsys.readouterr().out == overview()


def test_list_of_all_commands_that_virsh_cannot_print(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(program, "run_virsh", lambda words: 1)
    assert main(["-c", "x:///", "help"]) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "-c test:///default list --all",
        "--version",
        "help list",
        "help domain",
        "help --foo",
        "help migrate migrate",
        "help --help",
        "-z",
        "--k",
        "migrate --live a b",
        "migrate --foo",
        "-q -c x migrate --live --postcopy --timeout 5 a b",
        "frobnicate",
    ],
)
def test_all_else_goes_to_virsh_as_it_is(passed: list[list[str]], line: str) -> None:
    assert main(line.split()) == 0
    assert passed == [line.split()]


def test_command_string_goes_to_virsh(passed: list[list[str]]) -> None:
    strings = ["list; list --all", "migrate --live a b", "# migrate-postcopy a", " "]
    for string in strings:
        main([string])
    assert passed == [[string] for string in strings]


def test_command_string_that_is_ours(runs: SimpleNamespace, capsys: Capture) -> None:
    assert main(["migrate --live 'web 1' --post\\copy b:/// # why"]) == 0
    [(given, _)] = runs.calls
    assert (given["domain"], given["desturi"]) == ("web 1", "b:///")


def test_what_is_left_to_virsh_keeps_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(program, "run_virsh", lambda words: seen.append(words) or 0)
    options = ["--connect=x:///", "--keepalive-interval=0", "--keepalive-count=3", "--debug=1", "--quiet", "--no-pkttyagent"]  # fmt: skip
    words = ["migrate", "--offline", "--persistent", "a", "b:///"]
    assert main([*options, *words, "--strict-exit"]) == 0
    assert seen == [[*options, *words]]


def test_debug_level_that_is_ignored_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(program, "run_virsh", lambda words: seen.append(words) or 0)
    words = ["migrate", "--offline", "--persistent", "a", "b:///"]
    assert main(["-qd", "9", *words, "--strict-exit"]) == 0
    assert seen == [["--quiet", *words]]
    assert capsys.readouterr().err.count("ignoring debug level 9") == 1


TERMINAL, FILE = (SimpleNamespace(isatty=lambda is_it=each: is_it) for each in (True, False))  # fmt: skip


@pytest.mark.parametrize(
    "stdin, terminals, has_readline, shell",
    [
        (FILE, (), True, "fed"),
        (TERMINAL, (0, 1, 2), True, "on a terminal"),
        (TERMINAL, (0, 1), True, "virsh"),
        (TERMINAL, (0, 2), True, "virsh"),
        (TERMINAL, (0, 1, 2), False, "virsh"),
        (None, (), True, "virsh"),
    ],
)
def test_which_shell_it_is(
    monkeypatch: pytest.MonkeyPatch,
    stdin: object,
    terminals: tuple[int, ...],
    has_readline: bool,
    shell: str,
) -> None:
    begun: list[str] = []

    def exec_virsh(words: list[str]) -> None:
        begun.append("virsh")
        raise UsageError("as if it had become virsh")

    def import_module(name: str) -> SimpleNamespace:
        if name == "readline" and not has_readline:
            raise ImportError
        return SimpleNamespace(
            run=lambda line, ours: begun.append("on a terminal") or 0
        )

    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(program.os, "isatty", lambda number: number in terminals)
    monkeypatch.setattr(program, "import_module", import_module)
    monkeypatch.setattr(program, "exec_virsh", exec_virsh)
    monkeypatch.setattr(
        program.feed, "run", lambda line, ours: begun.append("fed") or 0
    )
    main(["-q"])
    assert begun == [shell]


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

sys.argv = ["virsh-postcopy", "migrate", "--live", "--postcopy", "a", "b"]

def play(body):
    def run(given, options, terminal, signals):
        signals.catch()
        exec(body, globals())
    program.import_module = lambda name: SimpleNamespace(run=run)
    program.entry()

def play_each(bodies, statuses):
    for body in bodies:
        if not (child := os.fork()):
            play(body)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(statuses, "a") as file:
            file.write(f"{status} ")

"""

REDIRECTIONS = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"]  # fmt: skip


TELLING = [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"]
"""Of these, what an error can meet with."""


def play(body: str, redirection: str = "") -> tuple[int, str, str]:
    return start(f"play({body!r})", redirection)


def start(call: str, redirection: str) -> tuple[int, str, str]:
    code = shlex.quote(PLAYED + call)
    shell = f"set -o pipefail; {sys.executable} -c {code} {redirection}"
    status, out, err = run(["bash", "-c", shell])
    return status, out.decode(), err.decode()


ENDS = {
    "pass": 0,
    "raise PostcopyBroken('x')": 3,
    "raise GuestLost('x')": 4,
    "sys.stdout.write('left in the buffer'); raise GuestLost('x')": 4,
}


@pytest.mark.programs
@pytest.mark.parametrize("redirection", ["", *REDIRECTIONS, "| true", "2>&1 | true"])
def test_stream_that_takes_nothing_leaves_the_status(
    redirection: str, tmp_path: Path
) -> None:
    """Each end in a child of a Python that was started with these streams."""
    statuses = tmp_path / "statuses"
    _, _, err = start(f"play_each({list(ENDS)!r}, {str(statuses)!r})", redirection)
    assert list(map(int, statuses.read_text().split())) == list(ENDS.values())
    assert err in ("", "error: x\n" * 3)


@pytest.mark.programs
def test_no_connection_gets_the_number_of_a_closed_stream() -> None:
    body = "os.open('/', 0) > 2 or os._exit(9)"
    assert play(body, "<&- >&- 2>&-")[0] == 0


@pytest.mark.programs
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


@pytest.mark.programs
def test_thread_of_libvirts_does_not_hold_up_the_end() -> None:
    body = "threading.Thread(target=threading.Event().wait).start()"
    assert play(body) == (0, "\n", "")


# The program itself, beside the real one


def assert_equal(*lines: list[str]) -> None:
    """Two programs side by side do the same."""
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(run, lines)
    assert one == other


def run(argv: list[str]) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.programs
@pytest.mark.parametrize(
    "words",
    [
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
    assert_equal([SHIM, *words], ["virsh", *words])


@pytest.mark.programs
@pytest.mark.parametrize(
    "words, redirection",
    [
        *(("domstate test", each) for each in (*REDIRECTIONS, "| true", "2>&1 | cat")),
        *(("domstate nosuch", each) for each in TELLING),
    ],
)
def test_virsh_gets_the_streams_as_they_are(words: str, redirection: str) -> None:
    assert_equal(
        *(
            ["bash", "-c", f"set -o pipefail; {each} -c test:///default {words} {redirection}"]
            for each in (SHIM, "virsh")
        )
    )  # fmt: skip


@pytest.mark.programs
def test_list_of_all_commands_is_virshs_and_ours() -> None:
    ours, virsh = run([SHIM, "help"]), run(["virsh", "help"])
    assert ours == (0, virsh[1] + overview().encode(), virsh[2])


@pytest.mark.programs
@pytest.mark.parametrize("words", ["help", "help migrate"])
def test_reader_of_help_who_has_enough_is_no_error(words: str) -> None:
    done = run(
        ["bash", "-c", f"{SHIM} {words} | head -1 >/dev/null; {SHIM} {words} | true"]
    )
    assert done[2] == b""


@pytest.mark.programs
@pytest.mark.parametrize(
    "words",
    [
        "migrate-postcopy test",
        "-q migrate-postcopy test",
        "-t migrate-postcopy test",
        "-qt migrate-postcopy nosuch",
        "-r migrate-postcopy test",
        "-t migrate-postcopy test --foo",
        "-tc nosuch:///x migrate-postcopy test",
        "-qt help migrate-postcopy",
    ],
)
def test_all_but_the_words_is_printed_as_virsh_does(words: str) -> None:
    """Where the lines of a real virsh and ours are: errors, help, blank ones and the time."""
    lines = [f"{each} -c test:///default {words} 2>&1" for each in (SHIM, "virsh")]
    with ThreadPoolExecutor() as pool:
        ours, virsh = pool.map(lambda line: shape(["bash", "-c", line]), lines)
    assert ours == virsh and virsh


def shape(argv: list[str]) -> list[str]:
    text = run(argv)[1].decode()
    text = re.sub(r"^note: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n  OPTIONS OF virsh-postcopy\n(    .*\n)+", "", text)
    lines = re.findall(r"error:|\(Time:|  [A-Z]+$|^$|^.", text, re.MULTILINE)
    return [
        kind
        for kind, group in groupby(lines)
        for _ in ([kind] if kind else group)  # a blank line counts each time
    ]


@pytest.mark.programs
@pytest.mark.parametrize("redirection", TELLING)
def test_no_virsh_with_a_closed_stream(redirection: str) -> None:
    shell = f"PATH=/nonexistent VIRSH_POSTCOPY_VIRSH= {SHIM} list {redirection}"
    status, out, err = run(["bash", "-c", shell])
    assert (status, out) == (1, b"")
    assert err == b"" or err.startswith(b"error: there is no virsh on PATH")
    assert bool(err) == ("2>" not in redirection)


@pytest.mark.programs
@pytest.mark.parametrize("redirection", TELLING)
def test_refusal_with_a_closed_stream(redirection: str) -> None:
    words = "-c test:///default migrate-postcopy test"
    status, out, err = run(["bash", "-c", f"{SHIM} {words} {redirection}"])
    assert status == 1
    assert out in (b"", b"\n")
    assert err == b"" or err.startswith(b"error: this function is not")


@pytest.mark.programs
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


@pytest.mark.programs
@pytest.mark.parametrize(
    "words, complaint",
    [
        (["migrate", "--live", "--postcopy", "nosuch", "b"],
         "error: failed to get domain 'nosuch'"),
        (["migrate-start-postcopy", "nosuch"],
         ("error: failed to get domain 'nosuch'\nnote: if it was migrating, look for it on the other host, and"
         " destroy nothing before you have found it")),
        (["migrate-postcopy", "test"],
         "error: this function is not supported by the connection driver: virDomainMigrateStartPostCopy"),
        (["migrate", "--postcopy", "test", "b"],
         "error: source: post-copy migration is not supported with non-live or paused migration (add --live)"),
        (["-r", "migrate", "--live", "--postcopy", "test", "b"],
         "error: operation forbidden: read only access prevents virDomainMigrate3"),
        (["-r", "migrate-postcopy", "test"],
         "error: operation forbidden: read only access prevents virDomainMigrateStartPostCopy"),
    ],
)  # fmt: skip
def test_refusals_of_the_real_library(words: list[str], complaint: str) -> None:
    status, out, err = run([SHIM, "-c", "test:///default", *words])
    assert (status, out, err.decode()) == (1, b"\n", f"{complaint}\n")


@pytest.mark.programs
def test_source_that_cannot_be_reached() -> None:
    words = ["migrate", "--live", "--postcopy", "test", "b"]
    status, _, err = run(
        [SHIM, "-c", "qemu+unix:///system?socket=/nonexistent/socket", *words]
    )
    assert status == 1
    failed, reason, cure = err.splitlines()
    assert failed == b"error: failed to connect to the hypervisor"
    assert reason.startswith(b"error: ") and b"/nonexistent/socket" in reason
    assert cure.startswith(b"note: start libvirt's daemon on this machine")
