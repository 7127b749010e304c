"""A program that runs libvirt's events through asyncio in a thread of its own."""

import asyncio
import threading

import libvirt
import libvirtaio

import libvirt_postcopy as postcopy
from libvirt_postcopy.events import PassSeen

loop = asyncio.new_event_loop()
ready = threading.Event()


def run_loop() -> None:
    asyncio.set_event_loop(loop)
    libvirtaio.virEventRegisterAsyncIOImpl(loop=loop)
    loop.call_soon(ready.set)
    loop.run_forever()


threading.Thread(target=run_loop, daemon=True).start()
assert ready.wait(10)

seen = []
connection = libvirt.open("qemu+tcp://a/system")
domain = connection.lookupByName("busy")
result = postcopy.migrate(domain, "qemu+tcp://b/system", observer=seen.append)
by_event = any(isinstance(each, PassSeen) for each in seen)
threads = {thread.name for thread in threading.enumerate()}
assert "libvirt-events" not in threads, "a second event loop was started"
print("moved by event" if by_event and result.switch else f"not so: {result}")
