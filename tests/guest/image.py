"""Assemble the guest and write its parameters into the image."""

import functools
import hashlib
import math
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .pattern import PAGE_BYTES, PATTERN_START

__all__ = [
    "GuestParams",
    "AS_FAST_AS_IT_CAN",
    "build",
    "write_image",
    "assemble",
    "ToolsMissing",
]

SOURCE = Path(__file__).with_name("guest.S")

AS_FAST_AS_IT_CAN = math.inf

PIT_HZ = 1193182
_MIB = 1 << 20
_PAGES_A_MIB = _MIB // PAGE_BYTES
# Both ends of the machine type pc keep this much below the hole for PCI; the
# guest does not page and so does not reach what lies above 4 GiB.
_MOST_MEMORY_MIB = 3072
_PARAMS_OFFSET = 0x180
_PARAMS_MAGIC = b"PCGUEST1"
_PARAMS = struct.Struct("<8sIIIIIIIII")
_STACK_TOP = 0x13000
_STEP_ONE_PAGE = 1 << 24
_STEP_UNLIMITED = 0xFFFFFFFF
_STATUS_EVERY_S = 0.1
_BACKLOG_S = 0.1  # so much is made up for when writing was slow
_ONE_PAGE = 1 << 16
# A size that every firmware takes for a floppy: 80 cylinders, 2 heads, 18 sectors.
_FLOPPY_BYTES = 1474560
_SECTOR = 512


class ToolsMissing(RuntimeError):
    """The assembler or the linker is not installed."""


@dataclass(frozen=True)
class GuestParams:
    """What the guest does.

    :raises ValueError: If the figures contradict each other.
    """

    memory_mib: int = 512  #: of the whole machine
    working_set_mib: int = 256  #: rewritten for ever, in order, from 1 MiB on
    rate_mib_s: float = 200.0  #: counted in whole pages; 0: idle
    heartbeat_hz: int = 2000
    fill_mib: Optional[int] = None  #: touch memory up to here only
    high_stack: bool = (
        False  #: at the end of the memory, above what is touched: among the last pages to be pushed
    )
    tlb_flush: bool = True  #: at each tick; guest.S tells which QEMU need it
    seed: int = 0  #: mixed with the time stamp counter at each boot

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.high_stack and self.pages == _pages(self.memory_mib):
            raise ValueError("high_stack needs a fill_mib below memory_mib")
        if not self.rate_mib_s >= 0:
            raise ValueError(f"rate_mib_s is {self.rate_mib_s}, below 0")
        if not 1000 <= self.heartbeat_hz <= 20000:
            raise ValueError(
                f"heartbeat_hz is {self.heartbeat_hz}, not within 1000 to 20000"
            )
        if not 0 <= self.seed <= 0xFFFFFFFF:
            raise ValueError(f"seed is {self.seed}, not a 32-bit number")

    @property
    def pages(self) -> int:
        """Pages of the pattern, the first one at 1 MiB."""
        return _pages(self.memory_mib if self.fill_mib is None else self.fill_mib)

    @property
    def working_pages(self) -> int:
        return self.working_set_mib * _PAGES_A_MIB

    @property
    def stack_top(self) -> int:
        return self.memory_mib * _MIB if self.high_stack else _STACK_TOP

    @property
    def divisor(self) -> int:
        """PIT clocks from one tick to the next."""
        return round(PIT_HZ / self.heartbeat_hz)

    @property
    def beats_a_second(self) -> float:
        """The frequency that the timer really gives."""
        return PIT_HZ / self.divisor

    @property
    def step(self) -> int:
        """Pages granted a PIT clock, as the guest counts them."""
        if math.isinf(self.rate_mib_s):
            return _STEP_UNLIMITED
        exact = self.rate_mib_s * _PAGES_A_MIB / PIT_HZ * _STEP_ONE_PAGE
        if self.rate_mib_s:
            exact = max(exact, 1)
        return min(round(exact), _STEP_UNLIMITED - 1)

    @property
    def backlog(self) -> int:
        """The most that may be granted and unused, as the guest counts it."""
        if math.isinf(self.rate_mib_s):
            return 0
        pages = self.rate_mib_s * _PAGES_A_MIB * _BACKLOG_S
        return min(round(max(pages, 2) * _ONE_PAGE), 0xFFFFFFFF)


def _pages(end_mib: int) -> int:
    return (end_mib * _MIB - PATTERN_START) // PAGE_BYTES


def _check_sizes(params: GuestParams) -> None:
    if not 2 <= params.memory_mib <= _MOST_MEMORY_MIB:
        raise ValueError(
            f"memory_mib is {params.memory_mib}, not within 2 to {_MOST_MEMORY_MIB}"
        )
    fill = params.memory_mib if params.fill_mib is None else params.fill_mib
    if not 2 <= fill <= params.memory_mib:
        raise ValueError(
            f"fill_mib is {fill}, not within 2 to memory_mib ({params.memory_mib})"
        )
    if not 0 <= params.working_set_mib <= fill - 1:
        raise ValueError(
            f"working_set_mib is {params.working_set_mib}, not within 0 to {fill - 1}:"
            " it starts at 1 MiB and must have been filled"
        )


def build(params: GuestParams) -> bytes:
    """Return the image of a 1.44 MB floppy that boots the guest.

    :raises ToolsMissing: If it has to be assembled and binutils is not there.
    """
    code = bytearray(assemble())
    _PARAMS.pack_into(
        code,
        _PARAMS_OFFSET,
        _PARAMS_MAGIC,
        params.seed,
        params.pages,
        params.working_pages,
        params.divisor,
        params.step,
        params.backlog,
        round(params.beats_a_second * _STATUS_EVERY_S),
        params.tlb_flush,
        params.stack_top,
    )
    return bytes(code).ljust(_FLOPPY_BYTES, b"\0")


def write_image(path: "os.PathLike[str] | str", params: GuestParams) -> Path:
    """Write the image, sparse, and return where it is."""
    target = Path(path)
    image = build(params)
    with target.open("wb") as out:
        out.write(image.rstrip(b"\0"))
        out.truncate(len(image))
    return target


@functools.cache
def assemble() -> bytes:
    """Return the code without parameters, from the cache if it is there.

    :raises ToolsMissing: If it is not, and neither is binutils.
    """
    source = SOURCE.read_bytes()
    cached = _cache_folder() / f"guest-{hashlib.sha256(source).hexdigest()[:24]}.bin"
    try:
        code = cached.read_bytes()
    except OSError:
        code = _run_assembler()
        _remember(cached, code)
    _check_code(code, cached)
    return code


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "libvirt-postcopy" / "guest"


def _remember(cached: Path, code: bytes) -> None:
    """Keep the code for the next run; one that cannot keep it assembles again."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as out:
            out.write(code)
        os.replace(out.name, cached)
    except OSError:
        pass


def _check_code(code: bytes, cached: Path) -> None:
    magic = code[_PARAMS_OFFSET : _PARAMS_OFFSET + len(_PARAMS_MAGIC)]
    whole = len(code) >= 2 * _SECTOR and len(code) % _SECTOR == 0
    if magic != _PARAMS_MAGIC or code[510:512] != b"\x55\xaa" or not whole:
        raise RuntimeError(f"no guest in {cached} or in {SOURCE}; remove the first")


def _run_assembler() -> bytes:
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        objects = os.path.join(folder, "guest.o")
        binary = os.path.join(folder, "guest.bin")
        _run_tool("as", "--32", str(SOURCE), "-o", objects)
        layout = ("-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary")
        _run_tool("ld", *layout, objects, "-o", binary)
        return Path(binary).read_bytes()


def _run_tool(tool: str, *args: str) -> None:
    if shutil.which(tool) is None:
        raise ToolsMissing(
            f"'{tool}' is needed to build the test guest: install the package binutils"
        )
    done = subprocess.run((tool, *args), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"'{tool}' cannot build the test guest: {done.stderr}")
