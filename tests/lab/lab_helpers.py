"""What the lab's tests do with a lab, and how they see what it has left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from labkit import Lab

__all__ = ["DOMAIN", "TOOL", "leftovers", "start_domain", "tool"]

TOOL = Path(__file__).parents[2] / "tools/lab"

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def start_domain(lab: Lab, host: str, name: str) -> None:
    """Start a domain without any disk."""
    definition = lab.shared / f"{name}.xml"
    definition.write_text(DOMAIN.format(name=name))
    lab.host(host).virsh("create", str(definition))


def tool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``tools/lab`` as a user does."""
    return subprocess.run(
        [sys.executable, str(TOOL), *words],
        env={**os.environ, "LIBVIRT_POSTCOPY_LAB_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def leftovers(folder: Path) -> list[str]:
    """Processes that belong to a lab, and its folder.

    Every process of a host or the client sees a mount from below the folder.
    """
    found = [str(folder)] if folder.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (process / "mountinfo").read_text()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if f"{folder}/" in mounts or f"labkit.holder {folder} " in command:
            found.append(f"{process.name}: {command}")
    return found
