import math
import struct
from pathlib import Path

import pytest

from guest import AS_FAST_AS_IT_CAN, GuestParams, build, image, write_image

NAMES = [
    "magic",
    "seed",
    "pages",
    "working",
    "divisor",
    "step",
    "backlog",
    "interval",
    "flush",
    "stack",
]


def patched(params: GuestParams) -> dict:
    return dict(zip(NAMES, struct.unpack_from("<8s9I", build(params), 0x180)))


def test_image_is_a_bootable_floppy_with_code_in_its_first_sectors():
    built = build(GuestParams())
    assert len(built) == 1474560
    assert built[510:512] == b"\x55\xaa"
    assert any(built[512:2048])
    assert not any(built[2048:])


def test_parameters_are_patched_in():
    params = GuestParams(memory_mib=64, working_set_mib=16, rate_mib_s=100, seed=7)
    assert patched(params) == {
        "magic": b"PCGUEST1",
        "seed": 7,
        "pages": 63 * 256,
        "working": 16 * 256,
        "divisor": 597,
        "step": round(100 * 256 / 1193182 * (1 << 24)),
        "backlog": 10 * 256 << 16,
        "interval": 200,
        "flush": 1,
        "stack": 0x13000,
    }


def test_stack_is_where_nothing_else_is():
    params = GuestParams(memory_mib=64, fill_mib=63, working_set_mib=16, high_stack=True)  # fmt: skip
    assert patched(params)["stack"] == 64 << 20


def test_code_does_not_depend_on_parameters():
    one, other = build(GuestParams()), build(GuestParams(rate_mib_s=3, memory_mib=300))
    assert one[:0x180] == other[:0x180]
    assert one[0x1FE:] == other[0x1FE:]


@pytest.mark.parametrize(
    "rate, step",
    [(0, 0), (AS_FAST_AS_IT_CAN, 0xFFFFFFFF), (1e-9, 1), (1e12, 0xFFFFFFFE)],
)
def test_rates_at_the_limits(rate, step):
    assert patched(GuestParams(rate_mib_s=rate))["step"] == step


def test_slow_rate_can_still_save_up_for_a_page():
    assert GuestParams(rate_mib_s=0.001).backlog >= 1 << 16


def test_filling_may_end_before_the_memory_does():
    assert GuestParams(memory_mib=512, fill_mib=300).pages == 299 * 256


def test_real_frequency_is_told():
    params = GuestParams(heartbeat_hz=2000)
    assert params.beats_a_second == pytest.approx(1998.6, abs=0.1)


@pytest.mark.parametrize(
    "figures, told",
    [
        ({"memory_mib": 4096}, "memory_mib is 4096"),
        ({"memory_mib": 1}, "memory_mib is 1"),
        ({"working_set_mib": 512}, "working_set_mib is 512, not within 0 to 511"),
        ({"working_set_mib": -1}, "working_set_mib"),
        ({"fill_mib": 513}, "fill_mib is 513"),
        ({"fill_mib": 100}, "working_set_mib is 256, not within 0 to 99"),
        ({"rate_mib_s": -1}, "rate_mib_s"),
        ({"rate_mib_s": math.nan}, "rate_mib_s"),
        ({"heartbeat_hz": 999}, "heartbeat_hz"),
        ({"seed": 1 << 32}, "seed"),
        ({"high_stack": True}, "high_stack needs a fill_mib"),
    ],
)
def test_contradicting_figures_are_refused(figures, told):
    with pytest.raises(ValueError, match=told):
        GuestParams(**figures)


def test_image_is_written_sparse(tmp_path: Path):
    path = write_image(tmp_path / "g.img", GuestParams())
    assert path.read_bytes() == build(GuestParams())
    assert path.stat().st_blocks * 512 < 100_000


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image.assemble.cache_clear()
    yield tmp_path
    image.assemble.cache_clear()


@pytest.mark.programs
def test_code_is_kept_and_needs_no_tools_again(empty_cache, monkeypatch):
    code = image.assemble()
    image.assemble.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert image.assemble() == code


def test_missing_tools_are_named(empty_cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(image.ToolsMissing, match="'as'.*binutils"):
        image.assemble()


@pytest.mark.programs
def test_damaged_cache_is_told(empty_cache):
    image.assemble()
    (kept,) = empty_cache.rglob("*.bin")
    kept.write_bytes(b"rubbish")
    image.assemble.cache_clear()
    with pytest.raises(RuntimeError, match=kept.name):
        image.assemble()


@pytest.mark.programs
def test_unwritable_cache_is_no_obstacle(empty_cache, monkeypatch):
    (empty_cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache / "file"))
    assert len(image.assemble()) == 2048
