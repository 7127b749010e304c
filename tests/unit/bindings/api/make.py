"""Cuts libvirt's descriptions of its API down to what the tests need: the names that this package has.

usage: PYTHONPATH=tests .venv/bin/python -m unit.bindings.api.make FOLDER    where libvirt-api.xml is
"""

from __future__ import annotations

import sys
from pathlib import Path

from lxml import etree

from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.names import is_about_postcopy, ours

HERE = Path(__file__).parent
FILES = ("libvirt-api.xml", "libvirt-qemu-api.xml")


def is_kept(name: str) -> bool:
    is_parameter = name.startswith("VIR_MIGRATE_")
    return (
        ours().has(name) or name in SYMBOLS or is_parameter or is_about_postcopy(name)
    )


def cut(content: bytes) -> bytes:
    root = etree.fromstring(content, etree.XMLParser(remove_blank_text=True))
    for child in list(root):
        if child.tag != "symbols":
            root.remove(child)
    for symbols in root:
        for each in list(symbols):
            if each.tag not in ("enum", "macro", "function") or not is_kept(
                each.get("name", "")
            ):
                symbols.remove(each)
            for part in list(each):
                if part.tag != "info" or each.tag != "macro":
                    each.remove(part)
    return etree.tostring(root, pretty_print=True)


if __name__ == "__main__":
    for file in FILES:
        (HERE / file).write_bytes(cut(Path(sys.argv[1], file).read_bytes()))
