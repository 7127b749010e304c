"""Makes a baseline of a report: which verdict each check got, and no more; what is known of a release does not show every time.

``libvirt-postcopy conformance run --qemu PATH --format json -o REPORT``, then
``python tests/conformance_live/make_baseline.py REPORT``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from libvirt_postcopy.conformance.deviations import DEVIATIONS
from libvirt_postcopy.conformance.known import in_range

FOLDER = Path(__file__).with_name("baselines")


def main(report: Path) -> None:
    for subject in json.loads(report.read_text(encoding="utf-8"))["subjects"]:
        version = tuple(map(int, subject["qemu"].split(".")))
        known = {each.check for each in DEVIATIONS if in_range(version, each.versions)}
        rows = [
            {"check": f["check"], "verdict": "known" if f["verdict"] == "pass" and f["check"] in known else f["verdict"]}
            for f in subject["findings"]
        ]  # fmt: skip
        value = {"subjects": [{"qemu": subject["qemu"], "package": subject["package"], "findings": rows}]}  # fmt: skip
        name = ".".join(subject["qemu"].split(".")[:2])
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
