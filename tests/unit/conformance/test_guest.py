from __future__ import annotations

import pytest

from libvirt_postcopy.conformance.guest import Guest


@pytest.mark.parametrize("is_random", [False, True])
def test_order_meets_every_page_once(is_random: bool) -> None:
    guest = Guest(memory_mib=4, fill_mib=2, working_mib=1, is_random=is_random)
    assert sorted(guest.order) == list(range(256))
    assert (list(guest.order) == list(range(256))) is not is_random
