"""The cycle collector of a running member."""

import gc
from collections.abc import Iterator

import pytest
from kvnode.cli.garbage import LONG_PAUSE_S, Collector


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> Iterator[Collector]:
    threshold = gc.get_threshold()
    started = Collector(clock)
    started.start()
    yield started
    started.stop()
    assert gc.get_threshold() == threshold
    assert gc.get_freeze_count() == 0


def collect(collector: Collector, clock: Clock, *, took_s: float) -> None:
    collector.collected("start", {"generation": 2})
    clock.now_s += took_s
    collector.collected("stop", {"generation": 2})


def test_what_a_start_leaves_is_looked_at_no_more(collector: Collector) -> None:
    assert gc.get_freeze_count() > 1000


def test_what_a_long_collection_leaves_is_frozen(collector: Collector, clock: Clock) -> None:
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(100)]
    collect(collector, clock, took_s=LONG_PAUSE_S * 2)
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_a_short_one_freezes_nothing(collector: Collector, clock: Clock) -> None:
    kept = [[] for _ in range(100)]
    gc.collect()
    frozen = gc.get_freeze_count()
    collect(collector, clock, took_s=LONG_PAUSE_S / 2)
    assert gc.get_freeze_count() <= frozen
    del kept


def test_collections_of_young_objects_are_not_timed(collector: Collector, clock: Clock) -> None:
    kept = [[] for _ in range(100)]
    frozen = gc.get_freeze_count()
    collector.collected("start", {"generation": 1})
    clock.now_s += LONG_PAUSE_S * 2
    collector.collected("stop", {"generation": 1})
    assert gc.get_freeze_count() <= frozen
    del kept


def test_once_twice_as_much_is_frozen_all_of_it_is_looked_at_again(
    collector: Collector, clock: Clock
) -> None:
    kept = [[] for _ in range(gc.get_freeze_count() + 1000)]
    collect(collector, clock, took_s=LONG_PAUSE_S * 2)
    assert gc.get_freeze_count() == 0
    # Then it is frozen again, and stays so.
    collect(collector, clock, took_s=LONG_PAUSE_S * 2)
    assert gc.get_freeze_count() >= len(kept)
