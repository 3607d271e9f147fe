from __future__ import annotations

import gc

import pytest

from mobifarm.controller.collection import THRESHOLDS, collect_rarely


@pytest.fixture
def collector():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_the_collector_looks_rarely_and_not_at_what_was_there(collector):
    frozen = gc.get_freeze_count()
    collect_rarely()
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > frozen


def test_garbage_that_comes_later_is_still_collected(collector):
    collect_rarely()

    class Node:
        pass

    nodes = [Node() for _ in range(10)]
    for node in nodes:
        node.itself = node
    del node, nodes
    assert gc.collect() >= 10
