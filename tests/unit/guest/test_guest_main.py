import io
import os
from xml.etree import ElementTree

import pytest

from guest import GuestParams, build
from guest import __main__ as main_module
from guest.__main__ import main


def test_image_is_written(tmp_path):
    path = tmp_path / "g.img"
    words = [
        "--memory",
        "64",
        "--working-set",
        "32",
        "--rate",
        "max",
        "--heartbeat",
        "1000",
    ]
    assert main(["image", "-o", str(path), *words], io.StringIO()) == 0
    params = GuestParams(64, 32, float("inf"), 1000)
    assert path.read_bytes() == build(params)


def test_xml_is_printed():
    out = io.StringIO()
    assert main(["xml", "--image", "/i", "--socket", "/s", "--memory", "300"], out) == 0
    assert ElementTree.fromstring(out.getvalue()).find("memory").text == "300"


@pytest.mark.parametrize(
    "words, told",
    [
        (["image", "-o", "/nowhere/at/all"], "/nowhere/at/all"),
        (["image", "-o", "x", "--working-set", "600"], "working_set_mib is 600"),
        (["watch", "/nowhere/at/all"], "cannot listen"),
    ],
)
def test_errors_are_one_line(capsys, words, told):
    assert main(words, io.StringIO()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1


def test_watch_prints_a_line_a_second(tmp_path, monkeypatch):
    assert main_module.A_LINE_S == 1.0
    monkeypatch.setattr(main_module, "A_LINE_S", 0.1)
    out = io.StringIO()
    assert main(["watch", str(tmp_path / "beat"), "--seconds", "0.1"], out) == 0
    assert "no beat yet" in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_watch_ends_without_a_word_when_nobody_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main_module, "A_LINE_S", 0.01)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as out:
        assert main(["watch", str(tmp_path / "beat"), "--seconds", "5"], out) == 141
    assert capsys.readouterr().err == ""
