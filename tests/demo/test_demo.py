"""The demo shows what it says, and cleans up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

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
