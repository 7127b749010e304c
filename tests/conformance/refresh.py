"""Makes the recorded conversations of ``tests/transcripts`` out of those of a run:

``libvirt-postcopy conformance run --qemu PATH --record FOLDER``, then
``python tests/conformance/refresh.py FOLDER/qemu-7.2.22 [SCENARIO…]``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from libvirt_postcopy.conformance import transcript
from libvirt_postcopy.conformance.evidence import Line

FOLDER = Path(__file__).parents[1] / "transcripts"


def _all(line: Line) -> bool:
    return True


def _without_serial(line: Line) -> bool:
    return line.dir != "serial"


def main(source: Path, names: list[str]) -> None:
    for path in sorted(source.iterdir()):
        name = path.name.partition(".")[0]
        seen = transcript.load(path)
        if seen.scenario == "cross":
            name = "cross-to-" + ".".join(seen.header["destination"].split(".")[:2])
        if names and name not in names:
            continue
        folder = FOLDER / ("qemu-" + ".".join(seen.qemu.split(".")[:2]))
        folder.mkdir(exist_ok=True)
        if name == "random-cancels":  # the first fifteen say it all
            begins = [line for line in seen.lines if line.dir == "cmd" and line.msg.get("execute") == "migrate"]  # fmt: skip
            last = seen.index(begins[15])
            ends = tuple(line for line in seen.lines if line.dir == "proc" and line.side == "src")  # fmt: skip
            seen = replace(seen, lines=(*seen.lines[:last], *ends), _cache={})
        is_kept = _all if name == "paused-long" else _without_serial
        kept = transcript.normalised(transcript.trimmed(seen), keep=is_kept)
        (folder / f"{name}.ndjson").write_text(transcript.dumps(kept), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
