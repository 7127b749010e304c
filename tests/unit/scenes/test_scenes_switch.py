import json
from pathlib import Path

import pytest

from scenes import bench_switch
from scenes.bench_switch import PLAIN, VIRSH, _Log, is_good, merge, ratio, table


def _run(delay_ms, **more):
    figures = dict.fromkeys(("stopped_ms", "blackout_ms", "cpu_ms", "memory_mib"), 1.0)
    return {**figures, "delay_ms": delay_ms, **more}


def _figures(ours, theirs, *, has_preempt=False):
    return {
        "versions": {"libvirt": "9.0.0"},
        "link": "48MiB",
        "has_preempt": has_preempt,
        "load": 1.25,
        "processors": 2,
        "runs": {
            VIRSH.name: [_run(each, blocktime_ms=7.0) for each in theirs],
            PLAIN.name: [_run(each) for each in ours],
        },
    }


def test_bound_is_on_the_medians_of_those_who_have_not_missed_the_moment():
    figures = _figures([1.0, 2.4, 9.0], [1.0, 2.0, 50.0, 1000.0])
    assert ratio(figures) == pytest.approx(1.2) and is_good(figures)
    assert not is_good(_figures([2.5], [2.0]))
    assert "Of 4 runs virsh in 1 and virsh-postcopy in 0 missed" in table(figures)


def test_table_has_a_row_for_each_client_and_says_what_was_not_counted():
    text = table(_figures([2.0], [2.0, 4.0]))
    assert "| virsh | 3.00 (2.00 to 4.00) | 1.00 (1.00 to 1.00) |" in text
    assert "7.00 (7.00 to 7.00)" in text
    ours = next(line for line in text.splitlines() if line.startswith("| virsh-post"))
    assert ours.count("not counted") == 1
    assert "takes 0.67 times virsh's delay (bound: 1.2)" in text
    assert "2 processors; its load was 1.2 " in text
    assert "preempt" not in text


def test_preempt_of_libvirts_own_is_told():
    text = table(_figures([2.0], [2.0], has_preempt=True))
    assert "postcopy-preempt on by itself" in text


def test_each_file_is_a_table():
    several = [_figures([1.0], [1.0]), _figures([2.0], [2.0])]
    assert merge(iter(several)) == several


class _Host:
    name = "a"

    def __init__(self, path: Path) -> None:
        self.log_path = path


def _line(event, seconds, **data):
    stamp = {"seconds": seconds, "microseconds": 500000}
    text = json.dumps({"event": event, "data": data, "timestamp": stamp})
    return f"2026: info : QEMU_MONITOR_RECV_EVENT: mon=0x7f event={text}\n"


def test_times_are_qemus_own_and_of_this_run(tmp_path):
    path = tmp_path / "log"
    path.write_text(_line("STOP", 1))
    log = _Log(_Host(path))
    with path.open("a") as file:
        file.write(_line("MIGRATION_PASS", 3, **{"pass": 1}))
        file.write(_line("MIGRATION_PASS", 4, **{"pass": 2}))
        file.write(_line("STOP", 5) + _line("STOP", 6))
    assert log.first("STOP") == 5.5 and log.second_pass() == 4.5
    with pytest.raises(RuntimeError, match="no RESUME"):
        log.first("RESUME")


def test_bench_without_a_second_pass_says_so(tmp_path):
    path = tmp_path / "log"
    path.write_text("")
    log = bench_switch._Log(_Host(path))
    with pytest.raises(RuntimeError, match="no second pass"):
        log.second_pass()
