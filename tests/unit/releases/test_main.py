"""The program, without network or root: what it prints and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from releases.cache import Cache
from releases.known import Flavour
from releases.main import main

from .fakes import fake_tree


@pytest.fixture(autouse=True, name="folder")
def fixture_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBVIRT_POSTCOPY_CACHE", str(tmp_path))
    (tmp_path / "releases").mkdir()
    cache = Cache(tmp_path)
    with cache.workshop("trixie", Flavour.QEMU) as made:
        fake_tree(made / "root")
        (made / "qemu-system-x86_64").touch()
        cache.put(made, "trixie", Flavour.QEMU)
    return cache.folder


def test_path_prints_the_wrapper(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["path", "10.0"]) == 0
    assert capsys.readouterr().out == f"{folder}/trixie-qemu/qemu-system-x86_64\n"


def test_json_tells_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", "trixie", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["suite"], row["flavour"], row["qemu"]) == ("trixie", "qemu", "10.0.13")
    assert (row["libvirt"], row["root"]) == (None, f"{folder}/trixie-qemu/root")


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            ["path", "5.2"],
            "5.2 is not in the cache; fetch it with: tools/qemu-versions fetch 5.2 --qemu-only",
        ),
        (
            ["root", "5.2"],
            "5.2 is not in the cache; fetch it with: tools/qemu-versions fetch 5.2",
        ),
        (
            ["root", "10.0"],
            "10.0 with libvirt is not in the cache; fetch it with: tools/qemu-versions fetch 10.0",
        ),
        (["fetch"], "fetch what? name a release, such as trixie or 10.0"),
        (
            ["fetch", "--suite", "10.0"],
            "--suite 10.0: a suite has a name, such as trixie",
        ),
    ],
)
def test_error_is_one_line_with_the_next_command(
    argv: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("verb", ["path", "root", "fetch"])
def test_unknown_release_is_told_what_is_known(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "etch"]) == 1
    assert "etch: no such release; known are bullseye" in capsys.readouterr().err


def test_fetch_of_what_is_there_needs_neither_root_nor_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fetch", "--qemu-only", "10.0", "trixie"]) == 0
    assert capsys.readouterr().out == "trixie (QEMU 10.0.13): is in the cache\n" * 2


def test_list_shows_cached_and_known_releases(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["trixie", "qemu", "10.0.13", "-"]
    assert lines[2].split() == ["bullseye", "not", "cached", "5.2", "7.0", "-"]


def test_list_as_json_has_the_same_keys_in_each_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6
    assert all(row.keys() == rows[0].keys() for row in rows)
