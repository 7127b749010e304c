"""The demo shows what it says, and cleans up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from scenes.demo import FOLDER

TOP = Path(__file__).parents[2]


def test_demo_moves_a_busy_guest_that_precopy_cannot() -> None:
    done = subprocess.run(
        [TOP / "tools/demo", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    schema = json.loads((TOP / "schemas/demo.schema.json").read_text())
    Draft202012Validator(schema).validate(figures)
    assert figures["precopy"]["converged"] is False
    post = figures["postcopy"]
    assert post["completed"] is True and post["memory_ok"] is True
    assert 0 < post["downtime_ms"] <= post["blackout_ms"] + 10
    assert post["passes"] == 1
    assert not Path(FOLDER).exists()


@pytest.mark.parametrize(
    "line", ["two libvirt hosts", "$ virsh migrate", "  pass "], ids=str.strip
)
def test_ctrl_c_takes_the_lab_down_in_one_line(line: str) -> None:
    # Ctrl-C on a terminal reaches every process of the group, and the terminal may repeat it.
    with subprocess.Popen(
        [TOP / "tools/demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout and demo.stderr
        while not (said := demo.stdout.readline()).startswith(line):
            assert said, f"the demo ended before it said: {line}"
        os.killpg(demo.pid, signal.SIGINT)
        os.killpg(demo.pid, signal.SIGINT)
        demo.stdout.read()
        words = demo.stderr.read().splitlines()
        assert demo.wait(30) == 130
    assert [word for word in words if not word.startswith("setup:")] == [
        "interrupted: taking the lab down"
    ]
    assert not Path(FOLDER).exists()
