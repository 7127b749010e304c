from pathlib import Path

import pytest

from guest import peek_reader, pmemsave_reader

DATA = bytes(range(256)) * (3 * 4096 * 4)


class Domain:
    def __init__(self):
        self.sizes = []

    def memoryPeek(self, start, size, flags=0):
        self.sizes.append(size)
        return DATA[start : start + size]


def test_peek_is_cut_at_what_one_call_carries():
    domain = Domain()
    size = (2 << 20) + 100
    assert peek_reader(domain)(5, size) == DATA[5 : 5 + size]
    assert domain.sizes == [1 << 20, 1 << 20, 100]


def test_pmemsave_reads_what_qemu_wrote(tmp_path):
    def execute(command, arguments):
        assert command == "pmemsave"
        start, size = arguments["val"], arguments["size"]
        Path(arguments["filename"]).write_bytes(DATA[start : start + size])

    read = pmemsave_reader(execute, folder=tmp_path)
    assert read(100, 5000) == DATA[100:5100]
    assert not list(tmp_path.iterdir())


def test_failed_pmemsave_leaves_no_file(tmp_path):
    def execute(command, arguments):
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        pmemsave_reader(execute, folder=tmp_path)(0, 10)
    assert not list(tmp_path.iterdir())
