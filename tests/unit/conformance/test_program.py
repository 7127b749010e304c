"""The command line, without a QEMU."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from libvirt_postcopy.cli.main import main
from libvirt_postcopy.conformance.registry import CHECKS

FOLDER = Path(__file__).parents[2] / "transcripts"


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["conformance", *words], out), out.getvalue()


def test_list_has_every_check_and_counts_them() -> None:
    status, text = run("list")
    assert status == 0 and text.endswith(f"{len(CHECKS)} checks\n")
    assert all(id in text for id in CHECKS)
    assert run("list", "E8")[1].startswith("status/source-order")


def test_replay_fails_on_deviations_and_not_on_known_ones_if_told() -> None:
    path = str(FOLDER / "qemu-7.2" / "cancel-postcopy.ndjson")
    status, text = run("replay", path, "--check", "cancel/postcopy")
    assert status == 1 and "known cancel/postcopy" in text
    assert run("replay", path, "--check", "cancel/postcopy", "--known-ok")[0] == 0
    path = str(FOLDER / "qemu-10.0" / "cancel-postcopy.ndjson")
    assert run("replay", path, "--check", "cancel/postcopy")[0] == 0


@pytest.mark.programs
@pytest.mark.parametrize(
    "words, complaint",
    [
        (["run", "no/such"], "no check 'no/such'"),
        (["run", "--qemu", "{tmp}/none/qemu"], "/none/qemu'"),
        (["run", "--qemu", "/bin/true"], "'/bin/true' is no QEMU"),
        (["run", "-j", "-1"], "-j -1"),
        (["run", "-o", "{tmp}/none/r.html"], "/none for the report"),
        (["replay", "{tmp}/none"], "/none: No such file"),
        (["replay", "{tmp}"], "no recorded conversation"),
        (["replay", "{tmp}/x.jsonl"], "x.jsonl: line 1 is no JSON"),
        (["replay", "{tmp}/x.jsonl", "--baseline", "{tmp}/x.jsonl"], "is no report"),
        (["schema", "{tmp}/x.jsonl"], "line 1 is no JSON"),
        (["consumer", "{tmp}/x.jsonl"], "x.jsonl"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "{tmp}" not in words:
        (tmp_path / "x.jsonl").write_text("{nothing\n")
    words = [word.format(tmp=tmp_path) for word in words]
    assert run(*words) == (2, "")
    err = capsys.readouterr().err
    assert err.startswith("error: ") and complaint in err and err.count("\n") == 1


def test_consumer_names_what_is_unknown_and_what_is_misspelt(tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"statuses": ["active"], "keys": ["diry-pages-rate"]}')
    replies = str(FOLDER / "qemu-11.1" / "introspection.ndjson")
    status, text = run("consumer", str(names), replies)
    assert status == 1
    assert "QEMU 11.1.2: status 'failing' is not known to this client" in text
    assert "'diry-pages-rate' exists in none of 11.1.2, perhaps 'dirty-pages-rate'" in text  # fmt: skip
    assert run("consumer", "own", replies)[0] == 0
