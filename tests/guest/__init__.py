"""A guest of our own for migration tests: it dirties memory and beats.

``image`` builds it, ``domain`` describes it to libvirt, ``heartbeat`` listens to it
and ``verify`` proves its memory. What runs in it is told in ``guest.S``. ::

    params = GuestParams(memory_mib=512, working_set_mib=256, rate_mib_s=200)
    write_image("/shared/g.img", params)
    with Collector("/shared/g.beat") as beat:
        xml = domain_xml("g", params, image="/shared/g.img", socket="/shared/g.beat")
        source.createXML(xml)
        beat.wait_for_fill(60)
        origin, start = beat.running, time.monotonic()
        ...  # migrate
        arrived = beat.wait_for_move(origin, 60)
        beat.wait_for_beats(1000, 60, connection=arrived)
        blackout_ms = beat.blackout(since=start).length_s * 1000
        report = verify_domain(dest.lookupByName("g"), params, collector=beat)
        assert report.ok, report
        assert (beat.lost, beat.repeated, beat.boots) == (0, 0, 1)
        assert not beat.strays
"""

from .damage import Damage
from .domain import domain_xml
from .heartbeat import Collector, GuestFault, HeartbeatTimeout
from .image import AS_FAST_AS_IT_CAN, GuestParams, build, write_image
from .journal import Gap
from .readers import peek_reader, pmemsave_reader
from .verify import MemoryReport, verify_domain, verify_memory

__all__ = [
    "GuestParams",
    "AS_FAST_AS_IT_CAN",
    "build",
    "write_image",
    "domain_xml",
    "Collector",
    "HeartbeatTimeout",
    "GuestFault",
    "Gap",
    "verify_domain",
    "verify_memory",
    "MemoryReport",
    "Damage",
    "peek_reader",
    "pmemsave_reader",
]
