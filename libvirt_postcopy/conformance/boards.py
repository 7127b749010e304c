"""The machines whose whole software the guest is, and the guest's image for each.

``guest.S`` tells what the guest does.  There is no disk, no lock on an image and no firmware that has to start, and it is the
same for every release.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from libvirt_postcopy.conformance.guest import MIB, PAGE, Guest

__all__ = ["BOARDS", "PC", "VIRT", "Board"]

_PARAMS = struct.Struct("<IIIII")
_PARAMS_AT = 8


@dataclass(frozen=True)
class Board:
    """A machine that the guest is made for."""

    target: str  #: QEMU's name of the architecture
    machine: str  #: the machine type
    releases: str  #: a regular expression for the machine types of the releases: the numbers are its groups
    ram: int  #: where RAM begins
    first_page: int  #: where the guest's own pages begin
    source: str  #: what the code is assembled from
    code: bytes
    load: Sequence[str]  #: QEMU's arguments; the image is at {}
    cpu: str = (
        ""  #: a processor that only this architecture has, in the place of the machine's own
    )

    def image(self, guest: Guest) -> bytes:
        """Return the guest as QEMU is to load it."""
        image = bytearray(self.code)
        numbers = (guest.fill_pages, guest.working_pages, *guest.generator, guest.delay)
        _PARAMS.pack_into(image, _PARAMS_AT, *numbers)
        return bytes(image)

    def arguments(self, image: str, accel: str) -> Sequence[str]:
        """Return what QEMU is given to run an image."""
        cpu = ("-cpu", "host" if accel == "kvm" else self.cpu) if self.cpu else ()
        return (*cpu, *(word.format(image) for word in self.load))

    def address(self, number: int) -> int:
        """Return where one of the guest's pages is."""
        return self.first_page + number * PAGE

    def dump_bytes(self, guest: Guest) -> int:
        """Return how much is to be read from :attr:`first_page` on: all of it."""
        return guest.memory_mib * MIB - (self.first_page - self.ram)

    def release_of(self, machine: str) -> tuple[int, ...]:
        """Return the numbers of a machine type that is a release's own; none for any other."""
        found = re.fullmatch(self.releases, machine)
        return tuple(map(int, found.groups())) if found else ()


_ROM_BYTES = 0x10000
_JUMP_AT = 0xFFF0
_JUMP = bytes.fromhex("ea1c0000f0")
#: guest.S assembled, up to the last byte that is not zero and without the jump; a test assembles it again and compares.
_PC_CODE = bytes.fromhex(
    "50434657303030310000000000000000010000000100000000000000fa2e660f0116e8000f20c06683c8010f22c066ea3600"
    "0f00080066b810008ed88ec08ed0e4920c0224fee69266baf803b041eefcbf000010008b1d08000f0085db741189f835e196"
    "3c5ab900040000f3ab4bebebb046ee8b0d0c000f0085c974494931ed31f64589f3c1e30c81c300001000892b89e831d88983"
    "fc0f00000f20e083f0100f22e08b3d18000f0085ff74034febf90faf3510000f00033514000f0021ce75c2b042eeebbcf4eb"
    "fd8db400008d74000000000000000000ffff0000009acf00ffff00000092cf001700d0000f"
)
PC = Board(
    target="x86_64",
    machine="pc",
    releases=r"pc-i440fx-(\d+)\.(\d+)",
    ram=0,
    first_page=MIB,
    source="guest.S",
    code=(_PC_CODE.ljust(_JUMP_AT, b"\0") + _JUMP).ljust(_ROM_BYTES, b"\0"),
    load=("-bios", "{}"),
)


#: guest-aarch64.S assembled; a test assembles it again and compares.
_VIRT_CODE = bytes.fromhex(
    "07000014504346310000000000000000010000000100000000000000df4f03d500e09fd200a218d5c0070058402018d58008"
    "0010002018d51f8708d51f7508d59f3f03d5df3f03d5001038d5a10082d2000001aa001018d5df3f03d50a20a152000e8052"
    "402d00b920208052403100b90b04a852ac05001820088052400100b9e1030baa22fcff182201003423000c4a638003aa0420"
    "8052230c81a884040071c1ffff5442040051f8ffff17c0088052400100b9c5faff1805030034a504005186faff1887faff18"
    "0800805209008052080500116131098b280000b90301014a23fc0fb91f8708d59f3f03d5df3f03d544f9ff18640000348404"
    "0051feffff17291d061b2901056a61feff5440088052400100b9efffff177f2003d5ffffff172035800000000000e1963c5a"
    "1f2003d51f2003d51f2003d51f2003d51f2003d5010400000000400005070040000000000507008000000000050700c00000"
    "0000"
)
VIRT = Board(
    target="aarch64",
    machine="virt",
    releases=r"virt-(\d+)\.(\d+)",
    ram=0x40000000,
    first_page=0x40200000,
    source="guest-aarch64.S",
    code=_VIRT_CODE,
    # The device tree is below.
    load=("-device", "loader,file={},addr=0x40100000,cpu-num=0,force-raw=on"),
    # The machine's own is one of 32 bits.
    cpu="cortex-a57",
)

BOARDS = (PC, VIRT)
