"""The program ``tools/qemu-versions``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from labkit.pipes import end_quietly
from releases.aptconf import find_mirror
from releases.cache import Cache
from releases.errors import FetchError, Interrupted, NotCached, ReleasesError
from releases.fetch import check_machine, fetch
from releases.known import KNOWN, Flavour, Release, Wanted, find, known, parse
from releases.root import Root

__all__ = ["main", "entry"]

EPILOG = """\
RELEASE is a Debian suite (bullseye, bookworm, trixie, forky), or by what is in it:
a QEMU (5.2, 7.2, 10.0, 11.1) or a libvirt (libvirt-7.0, libvirt-9.0, libvirt-11.3, libvirt-12.8).

The cache is $LIBVIRT_POSTCOPY_CACHE, else $XDG_CACHE_HOME/libvirt-postcopy, else ~/.cache/libvirt-postcopy.
Releases come from the Debian archive in this machine's apt sources, or from $LIBVIRT_POSTCOPY_MIRROR.
"""


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="qemu-versions",
        description="QEMU, alone or with libvirt, of several Debian releases side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser(
        "fetch", help="download releases into the cache (needs root)"
    )
    verb.add_argument("release", nargs="*", metavar="RELEASE")
    verb.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="a Debian suite that is not in the list",
    )
    verb.add_argument(
        "--qemu-only",
        action="store_true",
        help="QEMU alone: lighter, but no host for the lab",
    )
    verb.add_argument(
        "--refresh",
        action="store_true",
        help="fetch again what is there; nothing may run from it",
    )
    verb.add_argument(
        "--mirror",
        default=os.environ.get("LIBVIRT_POSTCOPY_MIRROR", ""),
        help="URL of a Debian archive",
    )

    verb = verbs.add_parser("list", help="show known and cached releases")
    verb.add_argument("--json", action="store_true")

    verb = verbs.add_parser(
        "path", help="print an executable that runs the release's QEMU here"
    )
    verb.add_argument("release", metavar="RELEASE")
    verb.add_argument("--json", action="store_true")

    verb = verbs.add_parser(
        "root", help="print the root folder of a release with libvirt"
    )
    verb.add_argument("release", metavar="RELEASE")
    verb.add_argument("--json", action="store_true")
    return parser


def run_fetch(args: argparse.Namespace, cache: Cache) -> int:
    """Fetch each release; one that fails does not keep the others from being fetched."""
    todo = [(wanted, _fetchable(wanted, cache)) for wanted in map(parse, args.release)]
    todo += [(wanted, Release(wanted.suite)) for wanted in map(_suite, args.suite)]
    if not todo:
        raise ReleasesError("fetch what? name a release, such as trixie or 10.0")
    failed = 0
    for wanted, release in todo:
        try:
            _fetch_one(wanted, release, args, cache)
        except FetchError as error:
            _complain(error)
            failed = 1
    return failed


def _fetchable(wanted: Wanted, cache: Cache) -> Release:
    """The release to fetch for a name: the table's, else a cached one's suite."""
    root = None if known(wanted) else cache.find(wanted)
    return Release(root.suite) if root else find(wanted)


def _suite(name: str) -> Wanted:
    wanted = parse(name)
    if not wanted.suite:
        raise ReleasesError(f"--suite {name}: a suite has a name, such as trixie")
    return wanted


def _fetch_one(
    wanted: Wanted, release: Release, args: argparse.Namespace, cache: Cache
) -> None:
    flavour = Flavour.QEMU if args.qemu_only else Flavour.FULL
    ready = _enough(wanted, flavour, cache)
    if ready and not args.refresh:
        _say(f"{_describe(ready)}: is in the cache")
        return
    mirror = find_mirror(args.mirror)
    check_machine(mirror)
    start = time.monotonic()
    root = fetch(
        release, flavour, cache=cache, mirror=mirror, say=_say, refresh=args.refresh
    )
    took_s = time.monotonic() - start
    _say(f"{_describe(root)}: {root.size_bytes() / 1e6:.0f} MB in {took_s:.0f} s")
    if not wanted.fits(root.suite, root.qemu, root.libvirt):
        what = f"{release.suite} now has another version; it is in the cache as {_describe(root)}"
        raise FetchError(wanted.name, what)


def _enough(wanted: Wanted, flavour: Flavour, cache: Cache) -> Root | None:
    """A cached root that serves what is asked for; one with libvirt serves for QEMU alone."""
    return cache.find(wanted, flavour=Flavour.FULL if flavour is Flavour.FULL else None)


def run_list(args: argparse.Namespace, cache: Cache) -> int:
    """Print what is cached, then what is known but not cached."""
    roots = cache.roots()
    cached = {root.suite for root in roots}
    rows = [_row(root) for root in roots]
    rows += [_known_row(release) for release in KNOWN if release.suite not in cached]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'RELEASE':20}{'FLAVOUR':12}{'QEMU':10}{'LIBVIRT':10}{'SIZE':>7}")
    for row in rows:
        print(_line(row))
    print(f"cache: {cache.folder}")
    return 0


def _line(row: dict[str, Any]) -> str:
    flavour = row["flavour"] or "not cached"
    size = f"{row['size_bytes'] / 1e6:.0f} MB" if row["root"] else "-"
    libvirt = row["libvirt"] or "-"
    return f"{row['suite']:20}{flavour:12}{row['qemu']:10}{libvirt:10}{size:>7}"


def run_path(args: argparse.Namespace, cache: Cache) -> int:
    """Print the wrapper of a cached release, of either flavour."""
    root = _cached(args.release, cache, None)
    print(json.dumps(_row(root)) if args.json else root.wrapper)
    return 0


def run_root(args: argparse.Namespace, cache: Cache) -> int:
    """Print the root folder of a cached release with libvirt."""
    root = _cached(args.release, cache, Flavour.FULL)
    print(json.dumps(_row(root)) if args.json else root.tree)
    return 0


def _cached(name: str, cache: Cache, flavour: Flavour | None) -> Root:
    """The cached root for a name.

    :raises NotCached: If the release is known and not there.
    :raises UnknownRelease: If there is no such release.
    """
    wanted = parse(name)
    root = cache.find(wanted, flavour=flavour)
    if root:
        return root
    other = cache.find(wanted)
    if other:
        raise NotCached(f"{name} with libvirt", command=f"fetch {name}")
    find(wanted)
    raise NotCached(name, command=f"fetch {name}{'' if flavour else ' --qemu-only'}")


def _row(root: Root) -> dict[str, Any]:
    """A cached root as JSON has it."""
    return {
        "suite": root.suite,
        "flavour": root.flavour.value,
        "qemu": root.qemu,
        "libvirt": root.libvirt or None,
        "root": str(root.tree),
        "path": str(root.wrapper),
        "size_bytes": root.size_bytes(),
    }


def _known_row(release: Release) -> dict[str, Any]:
    """A release that is not cached: the same keys, with the versions of the table."""
    return {
        "suite": release.suite,
        "flavour": None,
        "qemu": release.qemu,
        "libvirt": release.libvirt,
        "root": None,
        "path": None,
        "size_bytes": 0,
    }


def _describe(root: Root) -> str:
    libvirt = f", libvirt {root.libvirt}" if root.libvirt else ""
    return f"{root.suite} (QEMU {root.qemu}{libvirt})"


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(error: object) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    args = options().parse_args(argv)
    verbs = {"fetch": run_fetch, "list": run_list, "path": run_path, "root": run_root}
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    try:
        return verbs[args.verb](args, Cache())
    except BrokenPipeError:
        raise  # nobody is there to read about it
    except (ReleasesError, OSError) as error:
        _complain(error)
        return 130 if isinstance(error, Interrupted) else 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def entry() -> None:
    """For the executable."""
    sys.exit(end_quietly(main))
