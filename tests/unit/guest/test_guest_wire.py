import pytest

from guest.wire import Decoder, Message, MessageType, encode

MESSAGE = Message(MessageType.STATUS, 0xDEADBEEF, 123456, 789, 12)


def test_message_reads_back():
    assert Decoder().feed(encode(MESSAGE)) == [MESSAGE]


def test_beats_inside_a_message_are_kept_in_order():
    data = bytearray()
    for beat, byte in enumerate(encode(MESSAGE)):
        data += bytes([beat, byte])
    words = Decoder().feed(bytes(data))
    assert words == [*range(34), MESSAGE]


def test_bytes_may_come_one_at_a_time():
    decoder = Decoder()
    words = [word for byte in encode(MESSAGE) for word in decoder.feed(bytes([byte]))]
    assert words == [MESSAGE]


def test_end_of_a_message_that_began_elsewhere_is_passed_over():
    decoder = Decoder()
    assert decoder.feed(encode(MESSAGE)[5:] + encode(MESSAGE)) == [MESSAGE]
    assert decoder.damaged == 0


@pytest.mark.parametrize("at", [1, 16, 32, 33])
def test_changed_message_is_damaged(at):
    data = bytearray(encode(MESSAGE))
    data[at] ^= 1
    decoder = Decoder()
    assert decoder.feed(bytes(data)) == []
    assert decoder.damaged == 1


def test_shortened_message_is_damaged():
    data = encode(MESSAGE)
    decoder = Decoder()
    assert decoder.feed(data[:10] + data[12:] + encode(MESSAGE)) == [MESSAGE]
    assert decoder.damaged == 1


def test_interrupted_message_is_damaged():
    decoder = Decoder()
    assert decoder.feed(encode(MESSAGE)[:10] + encode(MESSAGE)) == [MESSAGE]
    assert decoder.damaged == 1


def test_unknown_message_is_damaged():
    decoder = Decoder()
    assert decoder.feed(b"\x8f" + encode(MESSAGE)[1:]) == []
    assert decoder.damaged == 1
