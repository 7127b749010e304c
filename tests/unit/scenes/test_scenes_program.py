import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import LabError
from labkit.pipes import NOBODY_READS
from scenes.program import SceneError, run_program

TOP = Path(__file__).parents[3]

BUFFERED = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
UNBUFFERED = {**BUFFERED, "PYTHONUNBUFFERED": "1"}


def fail(error):
    raise error


@pytest.mark.parametrize("status", [0, 1, 3])
def test_status_is_passed_on(status):
    assert run_program(lambda: status) == status


@pytest.mark.parametrize(
    "error",
    [SceneError("what\nwhere"), LabError("what\nwhere"), TimeoutError("what\nwhere")],
)
def test_failure_is_one_line(error, capsys):
    assert run_program(lambda: fail(error)) == 1
    assert capsys.readouterr().err == "error: what where\n"


def test_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        run_program(lambda: fail(KeyError("passes")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_one_line_and_what_was_begun_is_undone_in_peace(number, capfd):
    undone = []

    def run():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            os.kill(os.getpid(), number)
            undone.append(True)

    before = signal.getsignal(number)
    assert run_program(run) == 128 + number
    assert undone == [True]
    assert capfd.readouterr().err == "interrupted: taking the lab down\n"
    assert signal.getsignal(number) is before


PRINTS = """
import sys
from {module} import {name}
def run():
    for _ in range(100000):
        print("a line that is longer than a pipe is patient")
    return 0
sys.exit({name}(run))
"""


@pytest.mark.programs
@pytest.mark.parametrize(
    ["module", "name"],
    [("labkit.pipes", "end_quietly"), ("scenes.program", "run_program")],
)
def test_reader_that_goes_away_ends_it_without_a_word(module, name):
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS.format(module=module, name=name)],
        env={**BUFFERED, "PYTHONPATH": f"{TOP}:{TOP}/tools:{TOP}/tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout and program.stderr
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == ""
        assert program.wait(30) == NOBODY_READS


@pytest.mark.programs
@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED], ids=["late", "at once"])
@pytest.mark.parametrize(
    "argv",
    [
        ["tools/lab", "status"],
        ["tools/qemu-versions", "list"],
    ],
    ids=" ".join,
)
def test_tools_end_without_a_word_when_nobody_reads(argv, environment, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    own = {
        "LIBVIRT_POSTCOPY_LAB_DIR": str(tmp_path / "lab"),
        "LIBVIRT_POSTCOPY_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=TOP,
        env={**environment, **own},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (NOBODY_READS, "")


@pytest.mark.programs
@pytest.mark.parametrize("tool", ["tools/lab", "tools/qemu-versions"])
def test_help_that_nobody_reads_ends_without_a_word(tool):
    # Its exit status depends on whether argparse meets the closed pipe, or Python at the end.
    with subprocess.Popen(
        [sys.executable, tool, "--help"],
        cwd=TOP,
        env=BUFFERED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout and program.stderr
        program.stdout.close()
        assert program.stderr.read() == ""
