"""A program that knows nothing of event loops."""

import libvirt

import libvirt_postcopy as postcopy
from libvirt_postcopy.events import PassSeen

seen = []
connection = libvirt.open("qemu+tcp://a/system")
domain = connection.lookupByName("busy")
result = postcopy.migrate(domain, "qemu+tcp://b/system", observer=seen.append)
by_event = any(isinstance(each, PassSeen) for each in seen)
print("moved by event" if by_event and result.switch else f"not so: {result}")
