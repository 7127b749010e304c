"""What was found, as text, Markdown, JSON, JUnit XML, or one self-contained page."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # only written with, never read with

from libvirt_postcopy import __version__
from libvirt_postcopy.conformance.campaign import Pairing
from libvirt_postcopy.conformance.registry import CHECKS
from libvirt_postcopy.conformance.verdicts import Finding, Subject, Verdict
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.programs import printable

__all__ = [
    "FORMATS",
    "Baseline",
    "Detail",
    "changes",
    "on_screen",
    "read_baseline",
    "regressions",
    "render",
]

_FEW = 6  #: messages
BAD = (Verdict.FAIL, Verdict.KNOWN, Verdict.WEAK)
_MARK = {"pass": "ok", "fail": "FAIL", "known": "known", "weak": "weak", "skip": "-", "": ""}  # fmt: skip


class Detail(IntEnum):
    """How much of a finding is told."""

    HEAD = 0  #: one line
    ACTUAL = 1  #: also what is accepted, and what was seen
    MESSAGES = 2  #: also the first messages of what failed
    ALL = (
        3  #: of what is known, too, all messages whole, and what passed and was skipped
    )


def render(
    kind: str,
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing] = (),
    *,
    verbose: bool = False,
) -> str:
    """:param kind: One of :data:`FORMATS`."""
    return FORMATS[kind](subjects, pairs, verbose)


def _text(subjects: Sequence[Subject], pairs: Sequence[Pairing], verbose: bool) -> str:
    detail = Detail.ALL if verbose else Detail.MESSAGES
    return "".join(f"{row}\n" for row in _rows(subjects, pairs, detail))


def on_screen(
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing],
    columns: int,
    lines: int,
) -> str:
    """The text in as much detail as fits a screen; its findings are cut to its width, and tables never are."""
    rows: list[str] = []
    for detail in (Detail.MESSAGES, Detail.ACTUAL, Detail.HEAD):
        rows = list(_rows(subjects, pairs, detail, columns))
        if sum(max(1, -(-len(row) // columns)) for row in rows) <= lines:
            break
    return "".join(f"{row}\n" for row in rows)


def _rows(
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing],
    detail: Detail,
    columns: int = 0,
) -> Iterator[str]:
    for subject in subjects:
        for row in map(printable, _subject_text(subject, detail)):
            is_long = row.startswith(" ") and 0 < columns < len(row)
            yield f"{row[: columns - 1]}…" if is_long else row
    judged = [subject for subject in subjects if subject.findings]
    if len(judged) > 1:
        yield from map(printable, ("", *_table_text(judged)))
    if pairs:
        heading = "From one version to another:"
        yield from map(printable, ("", heading, *_pairs_text(pairs)))


def _subject_text(subject: Subject, detail: Detail) -> Iterator[str]:
    if subject.problem:
        yield f"{subject.label}: could not be judged: {subject.problem}"
    if not subject.findings:
        return
    counts = subject.counts()
    said = ", ".join(f"{counts[each.value]} {each.value}" for each in Verdict if counts[each.value])  # fmt: skip
    package = f" ({subject.package})" if subject.package else ""
    cost = f", {subject.seconds:.0f} s, {subject.peak_mib:.0f} MiB at most" if subject.seconds else ""  # fmt: skip
    yield f"{subject.label}{package}: {said}{cost}"
    for finding in sorted(subject.findings, key=lambda each: -each.verdict.weight):
        if finding.verdict in BAD:
            yield from finding_text(finding, detail)
        elif detail is Detail.ALL:
            reason = f": {finding.reason}" if finding.reason else ""
            yield f"  {finding.verdict.value:5} {finding.check.id}{reason}"


def finding_text(finding: Finding, detail: Detail) -> Iterator[str]:
    head = f"  {finding.verdict.value.upper() if finding.verdict is Verdict.FAIL else finding.verdict.value:5} {finding.check.id}"  # fmt: skip
    if finding.deviation and detail < Detail.ALL:
        yield f"{head}: {finding.deviation.text}"
        return
    yield f"{head}: {finding.check.requirement}"
    if detail is Detail.HEAD:
        return
    if finding.scenario:
        yield f"        scenario  {finding.scenario}"
    yield f"        accepted  {finding.accepted}"
    yield f"        actual    {finding.actual}"
    if finding.deviation:
        yield f"        known in  {finding.deviation.versions}: {finding.deviation.text}"
        yield f"        cure      {finding.deviation.does}"
    if detail is Detail.ALL:
        yield from (f"        {_whole(line)}" for line in finding.lines)
    elif detail is Detail.MESSAGES and finding.verdict is Verdict.FAIL:
        yield from (f"        {line}" for line in finding.lines[:_FEW])


def _whole(line: Any) -> str:
    return f"{line.t:9.3f} {line.side or '-':4} {line.dir:8} {json.dumps(line.msg, default=str)[:4000]}"  # fmt: skip


def _ids(subjects: Sequence[Subject]) -> list[str]:
    seen = {finding.check.id for subject in subjects for finding in subject.findings}
    return [id for id in CHECKS if id in seen]


def _cell(subject: Subject, id: str) -> Finding | None:
    return next((each for each in subject.findings if each.check.id == id), None)


def _marks(subjects: Sequence[Subject], id: str) -> list[str]:
    cells = [_cell(subject, id) for subject in subjects]
    return [_MARK[cell.verdict.value if cell else ""] for cell in cells]


def changes(subjects: Sequence[Subject]) -> list[str]:
    """The checks whose verdict is not the same everywhere."""
    return [id for id in _ids(subjects) if len(set(_marks(subjects, id)) - {""}) > 1]


def _table_text(subjects: Sequence[Subject]) -> Iterator[str]:
    yield "What is not the same everywhere:"
    heads = [subject.heading for subject in subjects]
    rows = [["", *heads], *([id, *_marks(subjects, id)] for id in changes(subjects))]
    yield from _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()  # fmt: skip


def _pairs_text(pairs: Sequence[Pairing]) -> Iterator[str]:
    rows = [("source", "destination", "machine type", "")]
    rows += [(each.source, each.destination, each.machine or "none", f"{each.verdict.value}{': ' + each.reason if each.reason else ''}") for each in pairs]  # fmt: skip
    yield from _aligned(rows)


def _markdown(
    subjects: Sequence[Subject], pairs: Sequence[Pairing], verbose: bool
) -> str:
    heads = [subject.heading for subject in subjects]
    rows = [
        f"| check | requirement | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(heads)}",
    ]
    for id in _ids(subjects):
        words = CHECKS[id].requirement.replace("|", "\\|")
        rows.append(f"| `{id}` | {words} | {' | '.join(_marks(subjects, id))} |")
    for title, found in _notes(subjects):
        rows += ["", f"**{title}**", ""]
        rows += [
            f"- `{each.check.id}`: {_why(each)}".replace("|", "\\|") for each in found
        ]
    if pairs:
        rows += ["", "| source \\ destination | " + " | ".join(sorted({p.destination for p in pairs}, key=_number)) + " |"]  # fmt: skip
        columns = sorted({p.destination for p in pairs}, key=_number)
        rows.append("|---|" + "---|" * len(columns))
        for source in sorted({p.source for p in pairs}, key=_number):
            cells = {p.destination: f"{_MARK[p.verdict.value]} ({p.machine or 'no common machine type'})" for p in pairs if p.source == source}  # fmt: skip
            rows.append(
                f"| {source} | " + " | ".join(cells.get(c, "") for c in columns) + " |"
            )
    return "\n".join(rows) + "\n"


def _number(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdecimal()]


def _notes(subjects: Sequence[Subject]) -> Iterator[tuple[str, list[Finding]]]:
    for subject in subjects:
        found = [each for each in subject.findings if each.verdict in BAD]
        if found:
            yield f"{subject.label}{' ' + subject.package if subject.package else ''}", found


def _why(finding: Finding) -> str:
    if finding.deviation:
        return f"{finding.deviation.text}; {finding.deviation.does}"
    return f"accepted: {finding.accepted}; actual: {finding.actual}"


def _hint(finding: Finding) -> str:
    """What a cell of the table tells when it is pointed at: why it is no plain "ok"."""
    return _why(finding) if finding.deviation else finding.reason or finding.actual


def document(
    subjects: Sequence[Subject], pairs: Sequence[Pairing] = ()
) -> dict[str, Any]:
    """The report by ``schemas/conformance-report.schema.json``."""
    return {
        "format": 1,
        "suite": __version__,
        "subjects": [
            {
                "label": subject.label,
                "qemu": subject.facts.text,
                "package": subject.package,
                "seconds": round(subject.seconds, 1),
                "peak-mib": round(subject.peak_mib),
                **({"problem": subject.problem} if subject.problem else {}),
                "counts": subject.counts(),
                "findings": [finding.to_json() for finding in subject.findings],
            }
            for subject in subjects
        ],
        "changes": {id: _marks(subjects, id) for id in changes(subjects)},
        "pairs": [
            {
                "source": pair.source,
                "destination": pair.destination,
                "machine": pair.machine,
                "verdict": pair.verdict.value,
                "reason": pair.reason,
            }
            for pair in pairs
        ],
    }


def _json(subjects: Sequence[Subject], pairs: Sequence[Pairing], verbose: bool) -> str:
    return json.dumps(document(subjects, pairs), indent=2, default=str) + "\n"


def _xml_text(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


def _junit(subjects: Sequence[Subject], pairs: Sequence[Pairing], verbose: bool) -> str:
    root = ElementTree.Element("testsuites", name="libvirt-postcopy conformance")
    for subject in subjects:
        counts = subject.counts()
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml_text(subject.label),
            tests=str(len(subject.findings) + bool(subject.problem)),
            failures=str(counts["fail"] + counts["known"]),
            skipped=str(counts["skip"]),
            errors=str(int(bool(subject.problem))),
            time=f"{subject.seconds:.1f}",
        )
        if subject.problem:
            case = ElementTree.SubElement(suite, "testcase", classname="run", name="run")  # fmt: skip
            ElementTree.SubElement(case, "error", message=_xml_text(subject.problem))
        for finding in subject.findings:
            group, _, name = finding.check.id.partition("/")
            case = ElementTree.SubElement(suite, "testcase", classname=group, name=name)
            if finding.verdict in (Verdict.FAIL, Verdict.KNOWN):
                node = ElementTree.SubElement(case, "failure", message=_xml_text(_why(finding)), type=finding.verdict.value)  # fmt: skip
                node.text = _xml_text("\n".join(_whole(line) for line in finding.lines))
            elif finding.verdict is Verdict.SKIP:
                ElementTree.SubElement(
                    case, "skipped", message=_xml_text(finding.reason)
                )
            elif finding.verdict is Verdict.WEAK:
                ElementTree.SubElement(case, "system-out").text = _xml_text(f"weak: {_why(finding)}")  # fmt: skip
    for pair in pairs:
        suite = ElementTree.SubElement(root, "testsuite", name=f"{pair.source} to {pair.destination}", tests="1")  # fmt: skip
        case = ElementTree.SubElement(suite, "testcase", classname="cross", name=f"{pair.source}-{pair.destination}")  # fmt: skip
        if pair.verdict is Verdict.FAIL:
            ElementTree.SubElement(case, "failure", message=_xml_text(pair.reason))
        elif pair.verdict is Verdict.SKIP:
            ElementTree.SubElement(case, "skipped", message=_xml_text(pair.reason))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{border:1px solid #ccc;padding:.25rem .5rem;text-align:left;vertical-align:top}
th{background:#f2f2f2;position:sticky;top:0}td.v{text-align:center;white-space:nowrap}.pass{background:#e3f4e3}.fail{background:#f9d3d3;font-weight:bold}
.known{background:#fce9c8}.weak{background:#fdf7c9}.skip{color:#777}code,pre{font:13px ui-monospace,monospace}pre{background:#f6f6f6;padding:.5rem;overflow:auto}
@media(prefers-color-scheme:dark){body{background:#191919;color:#ddd}th{background:#2a2a2a}th,td{border-color:#444}.pass{background:#1f3a1f}.fail{background:#5a2020}.known{background:#574317}.weak{background:#4b4717}pre{background:#222}}
"""


def _page(subjects: Sequence[Subject], pairs: Sequence[Pairing], verbose: bool) -> str:
    say = html.escape
    out = ["<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Post-copy conformance</title>", f"<style>{_STYLE}</style><h1>Post-copy conformance</h1><ul>"]  # fmt: skip
    for subject in subjects:
        counts = ", ".join(f"{n} {k}" for k, n in subject.counts().items() if n)
        out.append(
            f"<li><b>{say(subject.label)}</b> {say(subject.package)}: {say(subject.problem and 'could not be judged: ' + subject.problem)} {say(counts)}"
        )
    out.append("</ul><table><tr><th>check<th>requirement")
    out += [f"<th>{say(subject.heading)}" for subject in subjects]
    for id in _ids(subjects):
        out.append(f"<tr><td><code>{say(id)}</code><td>{say(CHECKS[id].requirement)}")
        for subject in subjects:
            cell = _cell(subject, id)
            verdict = cell.verdict.value if cell else ""
            title = say(_hint(cell) if cell else "", quote=True)
            out.append(f'<td class="v {verdict}" title="{title}">{_MARK[verdict]}')
    out.append("</table>")
    if pairs:
        out.append("<h2>From one version to another</h2><table><tr><th>source<th>destination<th>machine type<th>verdict")  # fmt: skip
        out += [f"<tr><td>{say(p.source)}<td>{say(p.destination)}<td>{say(p.machine)}<td class='v {p.verdict.value}'>{say(_MARK[p.verdict.value])} {say(p.reason)}" for p in pairs]  # fmt: skip
        out.append("</table>")
    for title, found in _notes(subjects):
        out.append(f"<h2>{say(title)}</h2>")
        for each in found:
            lines = "\n".join(_whole(line) for line in each.lines)
            out.append(f"<details><summary><code>{say(each.check.id)}</code> {say(each.verdict.value)}: {say(_why(each))}</summary><p>{say(each.check.requirement)} <i>{say(each.check.source)}</i><pre>{say(printable_lines(lines))}</pre></details>")  # fmt: skip
    return "".join(out) + "\n"


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


FORMATS = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
    "html": _page,
}


@dataclass(frozen=True)
class Baseline:
    """What an earlier report said."""

    subjects: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]


def read_baseline(path: Path) -> Baseline:
    """Read an earlier JSON report.

    :raises UsageError: If it is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for subject in value["subjects"]:
            assert isinstance(subject["qemu"], str)
            {each["check"]: Verdict(each["verdict"]) for each in subject["findings"]}
        pairs = value.get("pairs", [])
        assert all(isinstance(p["source"], str) and isinstance(p["destination"], str) and Verdict(p["verdict"]) for p in pairs)  # fmt: skip
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UsageError(f"{path} is no report of this suite", cure="write one with --format json -o FILE") from error  # fmt: skip
    return Baseline(value["subjects"], pairs)


def regressions(
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing],
    baseline: Baseline,
    failing: Collection[Verdict] = (Verdict.FAIL, Verdict.KNOWN),
) -> list[str]:
    """What is worse than it was for the same QEMU, or for the only one that the baseline has.

    :param failing: The verdicts that are worse than a better one.
    """
    before = {subject["qemu"]: subject for subject in baseline.subjects}
    only = next(iter(before.values())) if len(before) == 1 else {}
    worse = []
    for subject in subjects:
        was = before.get(subject.facts.text, only)
        verdicts = {each["check"]: Verdict(each["verdict"]) for each in was.get("findings", [])}  # fmt: skip
        for finding in subject.findings:
            old = verdicts.get(finding.check.id, Verdict.SKIP)
            if _is_worse(old, finding.verdict, failing) and not finding.is_of_machine:
                reason = f": {finding.reason}" if finding.reason else ""
                worse.append(f"{subject.label}: {finding.check.id} was {old.value}, is {finding.verdict.value}{reason}")  # fmt: skip
    ways = {(each["source"], each["destination"]): Verdict(each["verdict"]) for each in baseline.pairs}  # fmt: skip
    for pair in pairs:
        old = ways.get((pair.source, pair.destination), Verdict.SKIP)
        if _is_worse(old, pair.verdict, failing):
            worse.append(f"{pair.source} to {pair.destination} was {old.value}, is {pair.verdict.value}: {pair.reason}")  # fmt: skip
    return worse


def _is_worse(old: Verdict, new: Verdict, failing: Collection[Verdict]) -> bool:
    """What was kept and is not even checked any more is worse, too."""
    if new is Verdict.SKIP:
        return old in (Verdict.PASS, Verdict.WEAK)
    return new in failing and new.weight > old.weight
