"""``python3 -m guest``: make an image, print domain XML, watch a heartbeat."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Optional, TextIO

from .domain import domain_xml
from .heartbeat import Collector
from .image import GuestParams, ToolsMissing, write_image

__all__ = ["main"]

A_LINE_S = 1.0
"""What a line of ``watch`` speaks of."""


def main(argv: Optional[Sequence[str]] = None, out: TextIO = sys.stdout) -> int:
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args, out))
    except BrokenPipeError:
        # Whoever read it has enough; else Python would write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 141
    except (ValueError, ToolsMissing, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m guest", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    image = verbs.add_parser("image", help="write the floppy image")
    image.add_argument("-o", "--output", required=True, metavar="FILE")
    _add_params(image)
    image.set_defaults(run=_image)
    xml = verbs.add_parser("xml", help="print the domain's XML")
    xml.add_argument("--name", default="guest")
    xml.add_argument("--image", required=True, metavar="FILE")
    xml.add_argument("--socket", required=True, help="where the collector listens")
    xml.add_argument("--machine", default="pc")
    xml.add_argument("--uuid")
    xml.add_argument("--emulator")
    xml.add_argument("--type", default="qemu", help="qemu or kvm")
    _add_params(xml)
    xml.set_defaults(run=_xml)
    watch = verbs.add_parser("watch", help="print beats and gaps once a second")
    watch.add_argument("socket")
    watch.add_argument("--seconds", type=float, default=float("inf"))
    watch.set_defaults(run=_watch)
    return parser


def _add_params(parser: argparse.ArgumentParser) -> None:
    default = GuestParams()
    add = parser.add_argument
    add("--memory", type=int, default=default.memory_mib, help="MiB of RAM")
    add("--fill", type=int, help="MiB up to which it is touched")
    add("--working-set", type=int, default=default.working_set_mib, help="MiB")
    add("--rate", type=_rate, default=default.rate_mib_s, help="MiB/s, or 'max'")
    add("--heartbeat", type=int, default=default.heartbeat_hz, help="Hz")


def _rate(text: str) -> float:
    return float("inf") if text == "max" else float(text)


def _params(args: argparse.Namespace) -> GuestParams:
    return GuestParams(
        memory_mib=args.memory,
        working_set_mib=args.working_set,
        rate_mib_s=args.rate,
        heartbeat_hz=args.heartbeat,
        fill_mib=args.fill,
    )


def _image(args: argparse.Namespace, out: TextIO) -> int:
    print(write_image(args.output, _params(args)), file=out)
    return 0


def _xml(args: argparse.Namespace, out: TextIO) -> int:
    xml = domain_xml(
        args.name,
        _params(args),
        image=args.image,
        socket=args.socket,
        uuid=args.uuid,
        machine=args.machine,
        domain_type=args.type,
        emulator=args.emulator,
    )
    print(xml, file=out)
    return 0


def _watch(args: argparse.Namespace, out: TextIO) -> int:
    start = time.monotonic()
    with Collector(args.socket) as collector:
        while time.monotonic() - start < args.seconds:
            since = time.monotonic()
            time.sleep(A_LINE_S)
            print(_line(collector, start, since), file=out, flush=True)
    return 0


def _line(collector: Collector, start: float, since: float) -> str:
    now = time.monotonic()
    gaps = collector.longest_gaps(1, since=since)
    message = collector.last_message
    parts = [
        f"{now - start:7.1f} s",
        f"{collector.beats_a_second(since=since, until=now):6.0f} beats/s",
        f"longest gap {gaps[0].length_s * 1000:8.1f} ms" if gaps else "no beat yet",
        f"on {collector.running} of {collector.connections}",
        f"lost {collector.lost}",
        f"repeated {collector.repeated}",
    ]
    if message is not None:
        parts.append(f"sweep {message.sweep}")
    if collector.strays:
        parts.append(f"SPLIT BRAIN: {len(collector.strays)} beats of an old QEMU")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
