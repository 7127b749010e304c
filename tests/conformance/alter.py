"""Alters a recorded conversation, one thing at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from libvirt_postcopy.conformance import transcript
from libvirt_postcopy.conformance.evidence import Conversation

Rows = list[dict[str, Any]]
Alteration = Callable[[Rows], None]

GENERIC = {"class": "GenericError", "desc": "No."}


def altered(seen: Conversation, alteration: Alteration) -> Conversation:
    """Apply an alteration to a copy; it must change something."""
    rows = [copy.deepcopy(line.to_json()) for line in seen.lines]
    before = json.dumps(rows, sort_keys=True)
    alteration(rows)
    assert json.dumps(rows, sort_keys=True) != before, "the alteration changed nothing"
    text = "\n".join(json.dumps(row) for row in ({**seen.header}, *rows))
    return transcript.loads(text, seen.name)


def _is(row: dict[str, Any], side: str, name: str) -> bool:
    if row["dir"] != "event" or (side and row["side"] != side):
        return False
    data = row["msg"].get("data") or {}
    return name in (row["msg"]["event"], data.get("status"))


def _places(rows: Rows, side: str, name: str) -> list[int]:
    found = [n for n, row in enumerate(rows) if _is(row, side, name)]
    assert found, f"no {name} on {side}"
    return found


def place(rows: Rows, side: str, name: str) -> int:
    """Where the first event of a name is, or that announces a status."""
    return _places(rows, side, name)[0]


def drop(side: str, name: str, *more: str) -> Alteration:
    """Take all events of a name, or that announce a status, away."""

    def alter(rows: Rows) -> None:
        for each in (name, *more):
            for at in reversed(_places(rows, side, each)):
                del rows[at]

    return alter


def swap(side: str, one: str, two: str) -> Alteration:
    """Change the messages of the first event of one name and of another."""

    def alter(rows: Rows) -> None:
        a, b = place(rows, side, one), place(rows, side, two)
        rows[a]["msg"], rows[b]["msg"] = rows[b]["msg"], rows[a]["msg"]

    return alter


def add(
    side: str, name: str, *, after: tuple[str, str], status: bool = False
) -> Alteration:
    """Put an event behind another."""

    def alter(rows: Rows) -> None:
        at = place(rows, *after)
        like = rows[at]
        stamp = like["msg"].get("timestamp")
        msg: dict[str, Any] = {"event": "MIGRATION", "data": {"status": name}} if status else {"event": name}  # fmt: skip
        if stamp and like["side"] == side:
            msg["timestamp"] = stamp
        else:
            msg["timestamp"] = next(r["msg"]["timestamp"] for r in reversed(rows[: at + 1]) if r["dir"] == "event" and r["side"] == side)  # fmt: skip
        rows.insert(at + 1, {"t": like["t"], "side": side, "dir": "event", "msg": msg})

    return alter


def status_of(side: str, old: str, new: str, nth: int = 0) -> Alteration:
    """Let an event announce another status."""

    def alter(rows: Rows) -> None:
        rows[_places(rows, side, old)[nth]]["msg"]["data"]["status"] = new

    return alter


def _replies(rows: Rows, side: str, command: str) -> list[dict[str, Any]]:
    """The answers to a command, in the order in which it was sent; ids are unique on a side."""
    found = []
    for n, row in enumerate(rows):
        if row["dir"] == "cmd" and row["side"] == side and row["msg"].get("execute", row["msg"].get("exec-oob")) == command:  # fmt: skip
            answer = next((r for r in rows[n:] if r["dir"] == "reply" and r["side"] == side and r["msg"].get("id") == row["msg"].get("id")), None)  # fmt: skip
            if answer is not None:
                found.append(answer)
    assert found, f"{command} was not answered on {side}"
    return found


def refuse(
    side: str,
    command: str,
    nth: int = 0,
    desc: str = "No.",
    error: str = "GenericError",
) -> Alteration:
    """Let an answer be a refusal."""

    def alter(rows: Rows) -> None:
        msg = _replies(rows, side, command)[nth]["msg"]
        msg.pop("return", None)
        msg["error"] = {"class": error, "desc": desc}

    return alter


def accept(side: str, command: str, nth: int = 0, value: Any = None) -> Alteration:
    """Let a refusal be none."""

    def alter(rows: Rows) -> None:
        msg = _replies(rows, side, command)[nth]["msg"]
        msg.pop("error", None)
        msg["return"] = {} if value is None else value

    return alter


def edit(
    side: str, command: str, change: Callable[[Any], Any], nth: int = 0
) -> Alteration:
    """Change what was returned; ``change`` alters it or returns another."""

    def alter(rows: Rows) -> None:
        msg = _replies(rows, side, command)[nth]["msg"]
        changed = change(msg["return"])
        if changed is not None:
            msg["return"] = changed

    return alter


def edit_where(
    side: str, command: str, status: str, change: Callable[[Any], Any]
) -> Alteration:
    """Change the last answer that has a status."""

    def alter(rows: Rows) -> None:
        found = [r for r in _replies(rows, side, command) if isinstance(r["msg"].get("return"), dict) and r["msg"]["return"].get("status") == status]  # fmt: skip
        assert found, f"no {command} of {side} says {status}"
        changed = change(found[-1]["msg"]["return"])
        if changed is not None:
            found[-1]["msg"]["return"] = changed

    return alter


def refuse_where(side: str, command: str, words: str, desc: str = "No.") -> Alteration:
    """Refuse the first use of a command whose arguments have some words."""

    def alter(rows: Rows) -> None:
        for n, row in enumerate(rows):
            if row["dir"] == "cmd" and row["side"] == side and command in row["msg"].values() and words in json.dumps(row["msg"]):  # fmt: skip
                answer = next(r for r in rows[n:] if r["dir"] == "reply" and r["side"] == side and r["msg"].get("id") == row["msg"].get("id"))  # fmt: skip
                answer["msg"].pop("return", None)
                answer["msg"]["error"] = {"class": "GenericError", "desc": desc}
                return
        raise AssertionError(f"no {command} with {words}")

    return alter


def accept_where(side: str, command: str, words: str) -> Alteration:
    """Accept the first use of a command, among those refused, whose arguments have some words."""

    def alter(rows: Rows) -> None:
        for n, row in enumerate(rows):
            if row["dir"] == "cmd" and row["side"] == side and command in row["msg"].values() and words in json.dumps(row["msg"]):  # fmt: skip
                answer = next(r for r in rows[n:] if r["dir"] == "reply" and r["side"] == side and r["msg"].get("id") == row["msg"].get("id"))  # fmt: skip
                if "error" in answer["msg"]:
                    del answer["msg"]["error"]
                    answer["msg"]["return"] = {}
                    return
        raise AssertionError(f"no refused {command} with {words}")

    return alter


def dies(side: str, rc: int = -6) -> Alteration:
    """Let a QEMU end by itself."""
    return _end(side, {"rc": rc, "alive": False})


def dies_of(side: str, words: str, rc: int = -6) -> Alteration:
    """Let a QEMU die of the first command that has some words, in the place of an answer."""

    def alter(rows: Rows) -> None:
        place = next(n for n, r in enumerate(rows) if r["side"] == side and r["dir"] == "cmd" and words in str(r["msg"]))  # fmt: skip
        eof = {"t": rows[place]["t"], "side": side, "dir": "eof", "msg": None}
        rows[place + 1 :] = [eof, *(r for r in rows[place + 1 :] if r["dir"] == "proc")]

    return both(alter, dies(side, rc))


def lives_on(side: str) -> Alteration:
    """Let a QEMU not end before it is killed."""
    return _end(side, {"rc": None, "alive": True})


def _end(side: str, msg: dict[str, Any]) -> Alteration:
    def alter(rows: Rows) -> None:
        for row in rows:
            if row["dir"] == "proc" and row["side"] == side:
                row["msg"] = dict(msg)

    return alter


def memory(side: str = "dst", **values: Any) -> Alteration:
    """Change what the comparison of memory found."""

    def alter(rows: Rows) -> None:
        for row in rows:
            if row["dir"] == "memory" and row["side"] == side:
                row["msg"].update({key.replace("_", "-"): value for key, value in values.items()})  # fmt: skip

    return alter


def ends_after(side: str, command: str, nth: int = 0) -> Alteration:
    """Take away what was said after an answer, but how each process ended."""

    def alter(rows: Rows) -> None:
        answer = _replies(rows, side, command)[nth]
        place = next(n for n, row in enumerate(rows) if row is answer)
        rows[place + 1 :] = [r for r in rows[place + 1 :] if r["dir"] in ("proc", "stderr")]  # fmt: skip

    return alter


def silence(side: str, command: str, nth: int = 0) -> Alteration:
    """Take an answer away, and let it be waited for in vain."""

    def alter(rows: Rows) -> None:
        answer = _replies(rows, side, command)[nth]
        place = next(n for n, row in enumerate(rows) if row is answer)
        rows[place] = {"t": answer["t"] + 10, "side": side, "dir": "timeout", "msg": f"an answer to {command}: not within 10 s"}  # fmt: skip

    return alter


def late(side: str, command: str, seconds: float, nth: int = 0) -> Alteration:
    """Let an answer, and all that follows, come later."""

    def alter(rows: Rows) -> None:
        answer = _replies(rows, side, command)[nth]
        place = next(n for n, row in enumerate(rows) if row is answer)
        for row in rows[place:]:
            row["t"] += seconds

    return alter


def lines(change: Callable[[Rows], None]) -> Alteration:
    """Anything else."""
    return change


def both(*alterations: Alteration) -> Alteration:
    def alter(rows: Rows) -> None:
        for each in alterations:
            each(rows)

    return alter
