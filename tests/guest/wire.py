"""What the guest says on the serial line; the format is told in ``guest.S``."""

import enum
from dataclasses import dataclass
from typing import Optional, Union

__all__ = ["BEAT_MODULUS", "Decoder", "Message", "MessageType", "Word", "encode"]

BEAT_MODULUS = 128

_PAYLOAD_WORDS = 4
_NIBBLES_A_WORD = 8


class MessageType(enum.IntEnum):
    BOOT = 0x80
    FILLED = 0x81
    STATUS = 0x82
    NO_MEMORY = 0x83  #: less memory than the image was built for


@dataclass(frozen=True)
class Message:
    """A snapshot of the guest at tick ``ticks``."""

    type: MessageType
    seed: int
    ticks: int
    position: int
    sweep: int


#: A beat is the tick count modulo ``BEAT_MODULUS``.
Word = Union[int, Message]


class Decoder:
    """Tells beats and messages of one connection apart.

    It may start in the middle of a message: that one is passed over, the beats in
    it are not. A message with a wrong parity counts in ``damaged``.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._type: Optional[MessageType] = None
        self._nibbles: list[int] = []

    def feed(self, data: bytes) -> list[Word]:
        """Return the beats and the complete messages in ``data``, in order."""
        words: list[Word] = []
        for byte in data:
            if byte < BEAT_MODULUS:
                words.append(byte)
                continue
            message = self._message_byte(byte)
            if message is not None:
                words.append(message)
        return words

    def _message_byte(self, byte: int) -> Optional[Message]:
        kind, low = byte & 0xF0, byte & 0x0F
        if kind == 0x80:
            self._begin(byte)
        elif self._type is not None and kind == 0x90:
            self._nibbles.append(low)
        elif self._type is not None:
            return self._end(self._type, kind, low)
        return None

    def _begin(self, byte: int) -> None:
        if self._type is not None:
            self.damaged += 1
        self._nibbles = []
        try:
            self._type = MessageType(byte)
        except ValueError:
            self._type = None
            self.damaged += 1

    def _end(self, type_: MessageType, kind: int, parity: int) -> Optional[Message]:
        nibbles, self._nibbles, self._type = self._nibbles, [], None
        for nibble in nibbles:
            parity ^= nibble
        if kind != 0xA0 or parity or len(nibbles) != _PAYLOAD_WORDS * _NIBBLES_A_WORD:
            self.damaged += 1
            return None
        words = (
            sum(
                nibble << 4 * place for place, nibble in enumerate(nibbles[at : at + 8])
            )
            for at in range(0, len(nibbles), _NIBBLES_A_WORD)
        )
        return Message(type_, *words)


def encode(message: Message) -> bytes:
    """Return the bytes of a message, for tests."""
    words = (message.seed, message.ticks, message.position, message.sweep)
    nibbles = [word >> 4 * place & 0x0F for word in words for place in range(8)]
    parity = 0
    for nibble in nibbles:
        parity ^= nibble
    return bytes([message.type, *(0x90 | nibble for nibble in nibbles), 0xA0 | parity])
