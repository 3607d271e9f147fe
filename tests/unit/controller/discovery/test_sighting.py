from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.discovery.sighting import Difference, compare

scans = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"))


def test_a_phone_that_was_plugged_in_anew_went_and_came() -> None:
    assert compare({"a": "1", "b": "1"}, {"a": "2", "c": "1"}) == Difference(("a", "b"), ("a", "c"))


@given(scans, scans)
def test_the_difference_leads_from_one_scan_to_the_next(before: dict[str, str], now: dict[str, str]) -> None:
    difference = compare(before, now)
    reached = {address: name for address, name in before.items() if address not in difference.departed}
    reached |= {address: now[address] for address in difference.arrived}
    assert reached == now
    assert compare(now, now) == Difference((), ())
