#!/usr/bin/env python3
"""The table of docs/bindings.md: the check of the bindings within the roots of several Debian releases.

Each root (tools/qemu-versions fetch RELEASE) is taken with its own libvirt-python, and with the newest one from PyPI, built
there.  The root itself stays as it is: a compiler and libvirt's headers are installed over it, and thrown away.  Needs root.

usage: tools/bindings_table.py [--write] [RELEASE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "row"]

TOP = Path(__file__).resolve().parents[1]
PAGE = TOP / "docs" / "bindings.md"
BEGIN, END = "<!-- by tools/bindings_table.py -->", "<!-- end of the table -->"

RELEASES = ("libvirt-7.0", "libvirt-9.0", "libvirt-11.3", "libvirt-12.8")

HEAD = (
    "libvirt",
    "Python, cffi",
    "libvirt-python",
    "newest function called / in the library",
    "functions that are missing",
    "parameters without a hint",
    "findings",
    "exit",
)

PACKAGES = (
    "gcc libc6-dev libvirt-dev pkg-config python3-dev python3-cffi python3-lxml"
    " python3-pip python3-setuptools python3-wheel"
)

#: Within mount namespaces of its own: what is mounted is gone at the end.  Paths are the arguments: root, folder, project.
WITHIN = f"""
set -e
root=$1 work=$2 project=$3
mkdir -p "$work/upper" "$work/work" "$work/all"
mount -t overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" overlay "$work/all"
cd "$work/all"
mount --rbind /proc proc
mount --rbind /dev dev
mkdir -p mnt/project
mount --bind -o ro "$project" mnt/project
cp --remove-destination /etc/resolv.conf etc/resolv.conf
cp "$work"/*.tar.gz tmp/
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PYTHONDONTWRITEBYTECODE=1
apt="chroot . apt-get -q -y -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root"
$apt update >&2
$apt install --no-install-recommends {PACKAGES} >&2
chroot . sh -c 'CFLAGS=-O0 python3 -m pip install --quiet --no-index --no-deps --no-build-isolation --target /opt/newest /tmp/*.tar.gz' >&2
chroot . env PYTHONPATH=/mnt/project python3 /mnt/project/tools/bindings_table.py --here
chroot . env PYTHONPATH=/opt/newest:/mnt/project python3 /mnt/project/tools/bindings_table.py --here
"""


def here() -> dict[str, Any]:
    """What the check says of this process."""
    import platform

    import cffi

    from libvirt_postcopy.bindings.check import examine
    from libvirt_postcopy.bindings.compiled import check_compiled
    from libvirt_postcopy.bindings.description import find_description
    from libvirt_postcopy.bindings.library import loaded
    from libvirt_postcopy.bindings.symbols import LIBVIRT
    from libvirt_postcopy.vir.binding import installed

    binding = installed()
    report = examine(
        binding,
        description=find_description(),
        compile=lambda: check_compiled(binding),
    )
    return {
        **report.to_json(),
        "python": platform.python_version(),
        "cffi": cffi.__version__,
        "in_library": loaded(LIBVIRT).newest(),
        "described": find_description().is_file(),
    }


def row(found: dict[str, Any], suite: str, whose: str) -> tuple[str, ...]:
    """A row of the table.

    :param found: What :func:`here` said there.
    """
    missing = [each["symbol"] for each in found["symbols"] if each["version"] is None]
    witnesses = [] if found["compiled"].startswith("headers of") else ["no compiler"]
    witnesses += [] if found["described"] else ["no description"]
    return (
        f"{found['libvirt']} ({', '.join([suite, *witnesses])})",
        f"{found['python']}, {found['cffi']}",
        f"{found['binding']}, {whose}",
        f"{found['newest']} / {found['in_library']}",
        ", ".join(f"`{name}`" for name in missing) or "none",
        _unhinted(found),
        _counts(found),
        "0" if found["ok"] else "**1**",
    )


def _unhinted(found: dict[str, Any]) -> str:
    """Parameters of releases up to this one, by what becomes of them."""
    due = [each for each in found["parameters"] if not _is_later(each, found)]
    lucky = [f"`{p['key']}`" for p in due if p["hint"] is None and p["passed"] == p["expected"]]  # fmt: skip
    wrong = [
        f"**`{p['key']}`: `{p['passed']}` where `{p['expected']}` is expected**"
        for p in due
        if p["passed"] != p["expected"]
    ]
    luck = [f"{', '.join(lucky)}: right by luck"] if lucky else []
    return "; ".join([*wrong, *luck]) or "none"


def _is_later(parameter: dict[str, Any], found: dict[str, Any]) -> bool:
    def number(release: str) -> list[int]:
        return [int(part) for part in release.split(".")]

    return number(parameter["since"]) > number(found["libvirt"])


def _counts(found: dict[str, Any]) -> str:
    severities = [each["severity"] for each in found["findings"]]
    counts = {word: severities.count(word) for word in ("error", "warning", "note")}
    text = (f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items() if n)
    return ", ".join(text) or "none"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rows_of(release: str, source: Path) -> Iterator[tuple[str, ...]]:
    """Both rows of a release.

    :param source: libvirt-python's source release.
    """
    tree = _output(TOP / "tools" / "qemu-versions", "root", release)
    suite = Path(tree).parent.name.partition("-")[0]
    with tempfile.TemporaryDirectory(prefix="bindings-table-") as work:
        (Path(work) / source.name).write_bytes(source.read_bytes())
        said = _output("unshare", "--mount", "sh", "-c", WITHIN, "sh", tree, work, str(TOP))  # fmt: skip
    own, newest = (json.loads(line) for line in said.splitlines())
    yield row(own, suite, "the release's own")
    yield row(newest, suite, "built there")


def _output(*argv: str | Path) -> str:
    return subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    ).stdout.strip()


def newest_source(folder: Path) -> Path:
    """Download libvirt-python's newest source release."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*pip, "--no-binary", "libvirt-python", "--dest", str(folder), "libvirt-python"]  # fmt: skip
    subprocess.run(command, check=True, timeout=300)
    (found,) = folder.glob("*.tar.gz")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\nusage")[0])
    parser.add_argument("release", nargs="*", metavar="RELEASE", help=f"default: {' '.join(RELEASES)}")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="into docs/bindings.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(here()))
        return 0
    if os.geteuid() != 0:
        print("error: it mounts, and needs root for that", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="libvirt-python-") as folder:
        source = newest_source(Path(folder))
        rows = [r for release in args.release or RELEASES for r in rows_of(release, source)]  # fmt: skip
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{after}", encoding="utf-8")
    else:
        print(table(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
