import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tally import ENVIRONMENT, closing_line

TOOLS = Path(__file__).parents[2] / "tools"


def notes(*runs):
    return "".join(json.dumps(run) + "\n" for run in runs)


@pytest.mark.parametrize(
    ["runs", "seconds", "is_good", "line"],
    [
        ([{"passed": 2}, {"passed": 40}], 1.234, True, "42 passed in 1.23s"),
        ([{"passed": 2}], 3661.5, True, "2 passed in 3661.50s (1:01:01)"),
        (
            [{"passed": 2, "skipped": 1}, {"failed": 3, "passed": 1, "error": 2}],
            59.0,
            False,
            "3 failed, 3 passed, 1 skipped, 2 errors in 59.00s",
        ),
        ([{"passed": 2}], 1, False, "2 passed, 1 error in 1.00s"),
        ([{"passed": 0}], 1, True, "no tests ran in 1.00s"),
    ],
)
def test_runs_are_summed_up_as_pytest_does(runs, seconds, is_good, line):
    found = closing_line(notes(*runs), seconds, is_good=is_good)
    assert found.strip("=") == f" {line} "
    assert found.startswith("===") and found.endswith("===") and len(found) == 80


@pytest.mark.programs
def test_each_run_adds_its_own_figures(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert not 1\n"
        "@pytest.mark.skip\n"
        "def test_c(): pass\n"
    )
    file = tmp_path / "tally"
    environment = {**os.environ, "PYTHONPATH": str(TOOLS), ENVIRONMENT: str(file)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # this may be one
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "tally", "-c", "/dev/null"]
    for workers in ([], ["--numprocesses", "2"]):
        subprocess.run(
            [*pytest_, *workers],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
    line = closing_line(file.read_text(), 1, is_good=False)
    assert " 2 failed, 2 passed, 2 skipped in 1.00s " in line
