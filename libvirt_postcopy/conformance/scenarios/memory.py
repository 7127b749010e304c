"""Scenarios for each kind of guest memory."""

from __future__ import annotations

from collections.abc import Sequence

from libvirt_postcopy.conformance.guest import Guest
from libvirt_postcopy.conformance.pair import Pair, Setup
from libvirt_postcopy.conformance.scenarios.base import scenario

GUEST = Guest(memory_mib=48, fill_mib=24, working_mib=8)


def memory_of(backend: str) -> Sequence[str]:
    """What a QEMU is given for the guest's memory."""
    return ("-m", "48", "-object", f"{backend},id=ram,size=48M")


def _register(name: str, src: str, dst: str, needs: Sequence[str] = ()) -> None:
    setup = Setup(guest=GUEST, src_memory=memory_of(src), dst_memory=memory_of(dst), needs=needs)  # fmt: skip

    def drive(pair: Pair) -> None:
        pair.prepare()
        pair.limit()
        pair.to_postcopy()
        pair.finish()

    drive.__doc__ = f"Migrate a guest whose memory is {name.split('-', 1)[1]}."
    scenario(name, setup, needs=("cap:postcopy-ram",))(drive)


_register("memory-ram", "memory-backend-ram", "memory-backend-ram")
_register("memory-memfd", "memory-backend-memfd", "memory-backend-memfd")
_register("memory-shm", "memory-backend-file,mem-path={shm}/src,share=on", "memory-backend-file,mem-path={shm}/dst,share=on")  # fmt: skip
HUGE = "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"
_register("memory-hugepages", HUGE, HUGE, ("hugepages",))
