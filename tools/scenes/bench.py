"""Measurements, side by side in one run: the tools take turns on the same guest and link."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from labkit import LabError
from libvirt_postcopy.vir.calls import silence_libvirt
from scenes import bench_faults, bench_shim, bench_switch
from scenes.stage import own_lab

__all__ = ["main"]

FOLDER = Path("/run/libvirt-postcopy-bench")

FIGURES = "<!-- What follows is written by tools/bench. -->"

BENCHES = {"faults": bench_faults, "shim": bench_shim, "switch": bench_switch}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark in a lab of its own."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="BENCH")
    for name, module in BENCHES.items():
        verb = verbs.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        verb.add_argument("--runs", type=int, default=5, help="of each; default 5")
        verb.add_argument("--json", action="store_true", help="print all figures")
        module.add_arguments(verb)
        verb.add_argument(
            "--write",
            type=Path,
            help=f"also write the table there, below {FIGURES!r} if that is in it",
        )
        verb.add_argument(
            "--release",
            action="append",
            metavar="R",
            help="for a host; may be repeated",
        )
        verb.add_argument(
            "--lab", type=Path, default=FOLDER, metavar="DIR", help="folder of its lab"
        )
    args = parser.parse_args(argv)
    silence_libvirt()
    bench = BENCHES[args.verb]
    if getattr(args, "read", None):
        several = bench.merge(map(_figures, _files(args.read)))
    elif bench is bench_shim:
        several = [bench_shim.measure(None, args)]
    else:
        with own_lab(args.lab, args.release or ()) as lab:
            several = [bench.measure(lab, args)]
    text = _report(bench, several)
    print(json.dumps(several[0], indent=2) if args.json else text)
    if args.write:
        parts = [
            _beginning(args.write, bench.TITLE),
            text,
            getattr(bench, "EXPLANATION", ""),
        ]
        page = "\n\n".join(filter(None, parts))
        args.write.write_text(f"{page}\n", encoding="utf-8")
    return 0 if all(bench.is_good(figures) for figures in several) else 1


def _report(bench: ModuleType, several: Sequence[Any]) -> str:
    if bench is bench_faults:
        return bench_faults.report(several)
    return "\n\n".join(bench.table(figures) for figures in several)


def _beginning(page: Path, title: str) -> str:
    """What somebody has written above the figures stays; the title alone where nobody has."""
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    above, mark, _ = written.partition(FIGURES)
    return f"{above}{mark}" if mark else f"# {title}"


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """What is in a folder counts as if it were named."""
    for path in paths:
        yield from sorted(path.glob("*.json")) if path.is_dir() else (path,)


def _figures(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(
            f"{file}: {error}; give what --json has printed or --keep has kept"
        ) from None
