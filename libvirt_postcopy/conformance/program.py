"""``conformance``: does a QEMU's post-copy behave as documented?"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from libvirt_postcopy.errors import PostcopyError, UsageError
from libvirt_postcopy.programs import FAILED, printable

if TYPE_CHECKING:  # only what is needed is imported, when it is
    from libvirt_postcopy.conformance.campaign import Pairing
    from libvirt_postcopy.conformance.report import Baseline
    from libvirt_postcopy.conformance.verdicts import Subject, Verdict

__all__ = ["options", "run"]

COULD_NOT_RUN = 2
_FORMATS = ("text", "markdown", "json", "junit", "html")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.description = (
        "Exit status: 0 conforming, 1 deviations, 2 could not run, also if no post-copy was seen. "
        "Known deviations of released versions count as deviations unless --known-ok is given."
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _list(verbs.add_parser("list", help="print the checks"))
    _run(verbs.add_parser("run", help="start pairs of QEMUs and check them"))
    _replay(verbs.add_parser("replay", help="check recorded conversations"))
    _schema(verbs.add_parser("schema", help="what a QEMU offers, without running it, or JSON Schema of one command"))  # fmt: skip
    _consumer(verbs.add_parser("consumer", help="check the names that a client knows", description="Exit status 1 if a status is not known to it, or a name exists nowhere; what else it does not know is noted."))  # fmt: skip
    _matrix(
        verbs.add_parser("matrix", help="compare several QEMUs, or several reports")
    )


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("check", nargs="*", metavar="CHECK", help="id, beginning of ids, or alias")  # fmt: skip
    parser.add_argument("--scenarios", action="store_true", help="what is driven, in place of the checks")  # fmt: skip


def _qemus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qemu", action="append", default=[], metavar="PATH", help="a QEMU; may be given several times; this machine's own if none is")  # fmt: skip
    parser.add_argument("--release", action="append", default=[], metavar="RELEASE", help="the QEMU of another release, from tools/qemu-versions")  # fmt: skip
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="what runs the guest; tcg, software emulation, unless given")  # fmt: skip


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=_FORMATS, default="text", help="of the report; text unless given")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where the report is written; standard output unless given")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="store_true", help="with all messages, and what was skipped and why")  # fmt: skip
    parser.add_argument("--baseline", metavar="FILE", type=Path, help="an earlier JSON report: only what is worse fails")  # fmt: skip
    parser.add_argument("--known-ok", action="store_true", help="known deviations do not fail")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="weak verdicts fail too")


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--jobs", type=int, default=0, metavar="N", help="pairs side by side; one for each processor unless given")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the packager's minimum")
    parser.add_argument("--record", metavar="FOLDER", type=Path, help="keep all conversations")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be checked")  # fmt: skip


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("check", nargs="*", metavar="CHECK", help="id, beginning of ids, or alias; all if none")  # fmt: skip
    _qemus(parser)
    _running(parser)
    _report(parser)
    group = parser.add_argument_group("a running domain, in place of QEMUs of our own")
    group.add_argument("--connect", metavar="URI", help="the daemon that runs it")
    group.add_argument("--domain", metavar="NAME", help="name, id or UUID; only questions are sent, through the monitor passthrough, which taints it")  # fmt: skip
    group.add_argument("--disruptive", action="store_true", help="also send what is to be refused, and switch a capability on and back; not while it is being migrated")  # fmt: skip


def _replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="+", metavar="PATH", type=Path, help="a recorded conversation, or a folder of them")  # fmt: skip
    parser.add_argument("--check", action="append", default=[], metavar="CHECK", help="id, beginning of ids, or alias; may be given several times")  # fmt: skip
    _report(parser)


def _schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="*", metavar="FILE", type=Path, help="a .replies file as libvirt keeps them, a reply to query-qmp-schema, or a recorded conversation")  # fmt: skip
    _qemus(parser)
    parser.add_argument("--json-schema", metavar="NAME", help="of a command or event, in place of the features")  # fmt: skip
    parser.add_argument("--part", choices=("arg", "ret", "event"), default="ret", help="of it: the arguments of a command, what it returns (unless given), or the data of an event")  # fmt: skip
    parser.add_argument("--open", action="store_true", help="allow members that are not promised, for use across versions")  # fmt: skip


def _consumer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="FILE", help="YAML or JSON: lists under statuses, capabilities, parameters, commands, events, keys; 'own' for this package's")  # fmt: skip
    parser.add_argument("file", nargs="*", metavar="REPLIES", type=Path, help="as for schema")  # fmt: skip
    _qemus(parser)


def _matrix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("check", nargs="*", metavar="CHECK")
    parser.add_argument("--no-pairs", action="store_true", help="do not migrate from one version to another")  # fmt: skip
    parser.add_argument("--pairs-only", action="store_true", help="do nothing else")
    _qemus(parser)
    _running(parser)
    _report(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do what was asked for; what keeps it from being done is one line and status 2."""
    actions: dict[str, Callable[[argparse.Namespace, TextIO], int]] = {
        "list": _do_list,
        "run": _do_run,
        "replay": _do_replay,
        "schema": _do_schema,
        "consumer": _do_consumer,
        "matrix": _do_matrix,
    }
    try:
        return actions[args.action](args, out)
    except PostcopyError as error:
        with suppress(OSError, ValueError):
            print(printable(f"error: {' '.join(str(error).split())}"), file=sys.stderr)
        return COULD_NOT_RUN


def _do_list(args: argparse.Namespace, out: TextIO) -> int:
    from libvirt_postcopy.conformance import checks  # noqa: F401
    from libvirt_postcopy.conformance.registry import select
    from libvirt_postcopy.conformance.scenarios import SCENARIOS

    if args.scenarios:
        for scenario in SCENARIOS.values():
            out.write(f"{scenario.name:32} {'quick' if scenario.is_quick else '':6} {scenario.text}\n")  # fmt: skip
        return 0
    chosen = select(args.check)
    for check in chosen:
        out.write(f"{check.id:40} {check.alias:4} {check.level.value:6} {check.since:5} {check.requirement}\n")  # fmt: skip
    out.write(f"{len(chosen)} checks\n")
    return 0


def _do_run(args: argparse.Namespace, out: TextIO) -> int:
    if args.connect or args.domain or args.disruptive:
        return _run_domain(args, out)
    return _campaign(args, out, pairs=False)


def _run_domain(args: argparse.Namespace, out: TextIO) -> int:
    from libvirt_postcopy.conformance import checks, domain  # noqa: F401
    from libvirt_postcopy.conformance.registry import select

    if not args.connect or not args.domain:
        raise UsageError("a running domain needs both --connect URI and --domain NAME")
    if args.qemu or args.release or args.quick or args.record:
        raise UsageError("--qemu, --release, --quick and --record are not for a running domain")  # fmt: skip
    chosen = domain.chosen_for_a_domain(select(args.check), is_disruptive=args.disruptive)  # fmt: skip
    baseline = _baseline(args)
    _check_output(args)
    if args.dry_run:
        out.writelines(f"{check.id}\n" for check in chosen)
        return 0
    with domain.open_domain(args.connect, args.domain) as send:
        subject = domain.examine(send, f"{args.domain} at {args.connect}", chosen, is_disruptive=args.disruptive)  # fmt: skip
    return _conclude(args, out, [subject], [], baseline)


def _do_matrix(args: argparse.Namespace, out: TextIO) -> int:
    if args.no_pairs and args.pairs_only:
        raise UsageError("--no-pairs and --pairs-only leave nothing to do")
    return _campaign(args, out, pairs=not args.no_pairs)


def _campaign(args: argparse.Namespace, out: TextIO, *, pairs: bool) -> int:
    from libvirt_postcopy.conformance import campaign, checks  # noqa: F401
    from libvirt_postcopy.conformance.registry import select

    chosen = select(args.check)
    if args.jobs < 0:
        raise UsageError(f"-j {args.jobs}: at least 1")
    baseline = _baseline(args)
    _check_output(args)
    targets = campaign.targets_of(args.qemu, args.release, args.accel)
    only_pairs = pairs and args.pairs_only
    if only_pairs and len(targets) < 2:
        raise UsageError("--pairs-only needs two QEMUs or more", cure="give --qemu or --release twice")  # fmt: skip
    if args.dry_run:
        for check in chosen:
            out.write(f"{check.id}  {' '.join(check.scenarios)}\n")
        return 0
    settings = campaign.Options(
        workers=args.jobs or os.cpu_count() or 2,
        quick=args.quick,
        record=args.record,
        say=_progress(),
    )
    subjects = [] if only_pairs else campaign.run(targets, chosen, settings)
    found = campaign.run_pairs(targets, settings) if pairs and len(targets) > 1 else []
    _progress_end()
    return _conclude(args, out, subjects, found, baseline)


def _do_replay(args: argparse.Namespace, out: TextIO) -> int:
    from libvirt_postcopy.conformance import checks, transcript  # noqa: F401
    from libvirt_postcopy.conformance.registry import select
    from libvirt_postcopy.conformance.replay import replay

    chosen = select(args.check)
    baseline = _baseline(args)
    _check_output(args)
    conversations = [
        seen for path in args.path for seen in transcript.read_folder(path)
    ]
    subjects = replay(conversations, chosen)
    if not any(subject.has_run for subject in subjects):
        subjects[-1].problem = "no chosen check is about what was recorded"
    return _conclude(args, out, subjects, [], baseline)


def _baseline(args: argparse.Namespace) -> Baseline | None:
    from libvirt_postcopy.conformance.report import read_baseline

    return None if args.baseline is None else read_baseline(args.baseline)


def _check_output(args: argparse.Namespace) -> None:
    """Before minutes are spent: can the report be written?"""
    if args.output is not None and not args.output.absolute().parent.is_dir():
        raise UsageError(f"no folder {args.output.absolute().parent} for the report")


def _conclude(
    args: argparse.Namespace,
    out: TextIO,
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing],
    baseline: Baseline | None,
) -> int:
    from libvirt_postcopy.conformance import report

    text = report.render(args.format, subjects, pairs, verbose=args.verbose)
    if args.output is None and args.format == "text" and not args.verbose:
        _write_summary(args, out, subjects, pairs)
    elif args.output is None:
        out.write(text)
    else:
        try:
            args.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {args.output}: {error.strerror}") from error
        _write_summary(args, out, subjects, pairs)
    if baseline is not None:
        worse = report.regressions(subjects, pairs, baseline, _failing(args))
        # A report that a program reads stays as it is.
        where = out if args.format == "text" or args.output else sys.stderr
        where.writelines(f"worse than before: {printable(line)}\n" for line in worse)
        is_bad = bool(worse)
    else:
        is_bad = _is_bad(args, subjects, pairs)
    if is_bad:
        return FAILED
    return 0 if _has_run(subjects, pairs) else COULD_NOT_RUN


def _write_summary(
    args: argparse.Namespace,
    out: TextIO,
    subjects: Sequence[Subject],
    pairs: Sequence[Pairing],
) -> None:
    """Print what was found, on one screen where it is shown on one, and how to see more of the worst."""
    from libvirt_postcopy.conformance import report

    findings = [each for subject in subjects for each in subject.findings]
    worst = max(findings, key=lambda each: each.verdict.weight, default=None)
    more = f"With all messages: {_again(args, worst.check.id)}\n" if worst and worst.verdict in report.BAD else ""  # fmt: skip
    if out.isatty():
        columns, lines = shutil.get_terminal_size()
        used = 1 + -(-len(more) // columns)  # the prompt, too
        out.write(report.on_screen(subjects, pairs, columns, lines - used))
    else:
        out.write(report.render("text", subjects, pairs))
    out.write(more)


def _again(args: argparse.Namespace, check: str) -> str:
    """The command that judges one check alone, and tells all of it."""
    words = ["libvirt-postcopy", "conformance"]
    if args.action == "replay":
        words += ["replay", *map(str, args.path), "--check", check]
    else:
        words.append("run")
        for option in ("qemu", "release"):
            for value in getattr(args, option):
                words += [f"--{option}", value]
        words += ["--accel", args.accel] if args.accel != "tcg" else []
        if args.action == "run" and args.connect:
            words += ["--connect", args.connect, "--domain", args.domain]
            words += ["--disruptive"] if args.disruptive else []
        words.append(check)
    return printable(shlex.join([*words, "-v"]))


def _has_run(subjects: Sequence[Subject], pairs: Sequence[Pairing]) -> bool:
    """Whether each QEMU could be judged, and at least one pair, where there are any."""
    from libvirt_postcopy.conformance.verdicts import Verdict

    is_skipped = [pair.verdict is Verdict.SKIP for pair in pairs]
    return not any(s.problem for s in subjects) and not (pairs and all(is_skipped))


def _is_bad(
    args: argparse.Namespace, subjects: Sequence[Subject], pairs: Sequence[Pairing]
) -> bool:
    from libvirt_postcopy.conformance.verdicts import Verdict

    found = {each.verdict for subject in subjects for each in subject.findings}
    return bool(found & _failing(args)) or any(p.verdict is Verdict.FAIL for p in pairs)


def _failing(args: argparse.Namespace) -> set[Verdict]:
    from libvirt_postcopy.conformance.verdicts import Verdict

    known = set() if args.known_ok else {Verdict.KNOWN}
    weak = {Verdict.WEAK} if args.strict else set()
    return {Verdict.FAIL} | known | weak


def _progress() -> Callable[[str], None]:
    """Say on a terminal what is being done, on one line that is written over."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\x1b[K{printable(text)}", end="", file=sys.stderr, flush=True)  # fmt: skip


def _progress_end() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _do_schema(args: argparse.Namespace, out: TextIO) -> int:
    from libvirt_postcopy.conformance import static

    facts = static.facts_of(args.file, args.qemu, args.release)
    if args.json_schema:
        out.write(static.json_schema(facts, args.json_schema, args.part, is_open=args.open))  # fmt: skip
        return 0
    out.writelines(f"{printable(line)}\n" for line in static.features(facts))
    return 0


def _do_consumer(args: argparse.Namespace, out: TextIO) -> int:
    from libvirt_postcopy.conformance import static

    names = static.consumer_names(args.names)
    facts = static.facts_of(args.file, args.qemu, args.release)
    problems = static.consumer_problems(names, facts)
    notes = static.consumer_notes(names, facts)
    out.writelines(f"{printable(line)}\n" for line in problems)
    out.writelines(f"note: {printable(line)}\n" for line in notes)
    if not problems:
        out.write(f"{args.names}: nothing in {', '.join(f.text for f in facts)} would stop it\n")  # fmt: skip
    return FAILED if problems else 0
