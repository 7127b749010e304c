from xml.etree import ElementTree

from guest import GuestParams, domain_xml

PARAMS = GuestParams(memory_mib=300, working_set_mib=100)
PATHS = {"image": "/srv/g.img", "socket": "/run/beat"}


def parsed(**more):
    return ElementTree.fromstring(domain_xml("g", PARAMS, **PATHS, **more))


def test_image_is_a_read_only_floppy():
    disk = parsed().find("devices/disk")
    assert disk.attrib == {"type": "file", "device": "floppy"}
    assert disk.find("readonly") is not None
    assert disk.find("source").get("file") == "/srv/g.img"


def test_serial_port_connects_to_the_collector_and_again():
    source = parsed().find("devices/serial/source")
    assert source.attrib == {"mode": "connect", "path": "/run/beat"}
    assert source.find("reconnect").attrib == {"enabled": "yes", "timeout": "1"}


def test_machine_is_as_big_as_the_guest_was_built_for():
    memory = parsed().find("memory")
    assert (memory.text, memory.get("unit")) == ("300", "MiB")


def test_nothing_is_there_that_could_hinder():
    root = parsed()
    assert root.find("devices/memballoon").get("model") == "none"
    assert root.find("devices/controller").get("model") == "none"
    assert root.find("devices/interface") is None
    assert root.find("devices/graphics") is None
    assert root.find("uuid") is None


def test_choices_are_taken_over():
    root = parsed(
        uuid="6a5b2f0e-0d0a-4a43-8a6b-0c5a1a3d5a11",
        machine="pc-i440fx-5.2",
        domain_type="kvm",
        emulator="/opt/qemu",
    )
    assert root.get("type") == "kvm"
    assert root.find("uuid").text == "6a5b2f0e-0d0a-4a43-8a6b-0c5a1a3d5a11"
    assert root.find("os/type").get("machine") == "pc-i440fx-5.2"
    assert root.find("devices/emulator").text == "/opt/qemu"


def test_arguments_go_to_qemu():
    qemu = "{http://libvirt.org/schemas/domain/qemu/1.0}"
    arguments = parsed(qemu_args=["-qmp", "a<b&c"]).findall(f"{qemu}commandline/*")
    assert [argument.get("value") for argument in arguments] == ["-qmp", "a<b&c"]


def test_names_are_escaped():
    xml = domain_xml("a<b&c", PARAMS, **PATHS)
    assert ElementTree.fromstring(xml).find("name").text == "a<b&c"
