#!/usr/bin/env -S python3 -IS
"""A program that looks like a QEMU from outside, and does not behave: what it does wrong is the name of the link to it.

It says of itself what a recorded QEMU 10.0 says, and answers everything else with an empty success.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
INTROSPECTION = TESTS / "transcripts/qemu-10.0/introspection.ndjson"
WRONG = Path(sys.argv[0]).name


def recorded() -> tuple[dict[str, Any], dict[str, Any]]:
    """The greeting, and the answers by command."""
    rows = [json.loads(row) for row in INTROSPECTION.read_text().splitlines()[1:]]
    greeting = next(row["msg"] for row in rows if row["dir"] == "greeting")
    names = {row["msg"]["id"]: row["msg"]["execute"] for row in rows if row["dir"] == "cmd" and isinstance(row["msg"].get("id"), int) and "execute" in row["msg"]}  # fmt: skip
    answers = {names[row["msg"]["id"]]: row["msg"]["return"] for row in rows if row["dir"] == "reply" and isinstance(row["msg"].get("id"), int) and "return" in row["msg"]}  # fmt: skip
    return greeting, answers


def answer(msg: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    name = msg.get("execute", "")
    if "exec-oob" in msg or (WRONG == "refuses" and name == "migrate-set-capabilities"):
        return {"error": {"class": "GenericError", "desc": "It does not like to."}}
    if WRONG == "without-gnutls" and name == "object-add":
        return {"error": {"class": "GenericError", "desc": "TLS credentials support requires GNUTLS"}}  # fmt: skip
    if WRONG == "malformed" and name in ("migrate-incoming", "query-migrate"):
        return {"return": ["what", 1]}
    return {"return": answers.get(name, {})}


def serve(path: str, greeting: dict[str, Any], answers: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(path)
        file = monitor.makefile("rw")
        if WRONG == "greets-oddly":
            greeting = {"QMP": []}
        print(json.dumps(greeting), file=file, flush=True)
        for line in file:
            msg = json.loads(line)
            reply = {**answer(msg, answers), "id": msg.get("id")}
            print(json.dumps(reply), file=file, flush=True)


def main(words: list[str]) -> int:
    if words == ["--version"]:
        print("QEMU emulator version 10.0.13")
        return 0
    if words[:2] == ["-machine", "help"]:
        print("virt" if WRONG == "other-machine" else "pc    Standard PC")
        return 0
    if words[:2] == ["-cpu", "help"]:
        print("Available CPUs:\n  cortex-a15")
        return 0
    if WRONG == "dead":
        print("qemu: cannot start today", file=sys.stderr)
        return 1
    paths = re.findall(r"path=([^,\s]+)", " ".join(words))
    serial = socket.socket(socket.AF_UNIX)
    serial.connect(next(path for path in paths if path.endswith(".serial")))
    serial.sendall(b"AFBB")
    greeting, answers = recorded()
    monitors = [threading.Thread(target=serve, args=(path, greeting, answers)) for path in paths if path.endswith(".qmp")]  # fmt: skip
    for each in monitors:
        each.start()
    for each in monitors:
        each.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
