import re
import struct

import pytest

from guest import pattern
from guest.image import SOURCE
from guest.pattern import Status, page_bytes, page_in_flight
from guest.wire import MessageType


def constants() -> dict:
    lines = re.findall(r"^\.set (\w+),\s+(0x[0-9a-f]+|\d+)\b", SOURCE.read_text(), re.M)
    return {name: int(value, 0) for name, value in lines}


def test_both_halves_use_the_same_numbers():
    source = constants()
    assert source["STATUS"] == pattern.STATUS_ADDRESS
    assert source["BASE"] == pattern.PATTERN_START
    assert source["MUL_PAGE"] == pattern._MUL_PAGE
    assert source["MUL_SEQ"] == pattern._MUL_SEQUENCE
    assert source["FILLER"] == pattern._FILLER
    assert source["FILLER_WORDS"] == pattern._FILLER_WORDS
    for name in MessageType:
        assert source[f"MSG_{name.name}"] == name


def test_page_names_itself_in_every_block():
    page = page_bytes(300, seed=0xABCD, sequence=5)
    assert len(page) == 4096
    for at in range(0, 4096, 512):
        assert struct.unpack_from("<III", page, at) == (5, 300, 0xABCD)


def test_last_word_depends_on_all_three():
    def last(**changed):
        named = {"number": 300, "seed": 9, "sequence": 5, **changed}
        return page_bytes(named.pop("number"), **named)[-4:]

    kinds = {last(), last(number=301), last(seed=8), last(sequence=4)}
    assert len(kinds) == 4


def test_page_in_flight_goes_from_old_to_new_store_by_store():
    states = [
        page_in_flight(300, seed=9, sequence=5, stores=n)
        for n in range(pattern.STORES + 1)
    ]
    assert states[0] == page_bytes(300, seed=9, sequence=4)
    assert states[-1] == page_bytes(300, seed=9, sequence=5)
    for before, after in zip(states, states[1:]):
        changed = [i for i in range(4096) if before[i] != after[i]]
        assert changed
        assert changed[-1] - changed[0] < 4


def test_status_page_reads_back():
    status = Status(1, 2, 3, 4, 5, 6)
    data = status.to_bytes()
    assert len(data) == 4096
    assert Status.from_bytes(data) == status
    assert struct.unpack_from("<I", data, 28) == (4,)


def test_no_status_page_is_told():
    with pytest.raises(ValueError, match="no status page at 0x10000"):
        Status.from_bytes(bytes(4096))


def test_status_page_of_another_layout_is_told():
    data = bytearray(Status(1, 2, 3, 4, 5, 6).to_bytes())
    data[8] = 9
    with pytest.raises(ValueError, match="version 9"):
        Status.from_bytes(bytes(data))
