"""When auto-compaction compacts, and how far."""

import pytest
from kvnode.server.auto_compaction import CompactionPlan
from kvnode.server.config import PeriodicCompaction, RevisionCompaction


def run(plan: CompactionPlan, seconds: float, *, revisions_per_s: float = 1.0) -> list[tuple[float, int]]:
    """Look as often as the plan wants to; returns when what was compacted."""
    done = []
    now_s = 0.0
    while now_s < seconds:
        now_s += plan.pause_s
        target = plan.look(now_s, int(now_s * revisions_per_s) + 1)
        if target is not None:
            done.append((round(now_s, 3), target))
            plan.compacted(now_s, target)
    return done


def test_a_short_window_is_compacted_once_in_each() -> None:
    done = run(CompactionPlan(PeriodicCompaction(window_s=600.0), 0.0, 1), 3000.0)
    assert [when_s for when_s, _ in done] == [600.0, 1200.0, 1800.0, 2400.0, 3000.0]
    for when_s, revision in done:
        assert 600 <= when_s - (revision - 1) <= 660


def test_a_long_window_is_compacted_hourly_after_the_first() -> None:
    day_s = 24 * 3600.0
    done = run(CompactionPlan(PeriodicCompaction(window_s=day_s), 0.0, 1), day_s + 4 * 3600)
    assert [when_s - day_s for when_s, _ in done] == [0.0, 3600.0, 7200.0, 10800.0, 14400.0]
    for when_s, revision in done:
        assert day_s <= when_s - (revision - 1) <= day_s + 361


def test_an_idle_store_is_not_compacted_again() -> None:
    done = run(CompactionPlan(PeriodicCompaction(window_s=60.0), 0.0, 1), 1000.0, revisions_per_s=0.0)
    assert done == [(60.0, 1)]


def test_a_refused_compaction_is_tried_again_at_the_next_look() -> None:
    plan = CompactionPlan(PeriodicCompaction(window_s=100.0), 0.0, 1)
    seen = [plan.look(now_s, int(now_s)) for now_s in range(10, 131, 10)]
    assert seen == [None] * 9 + [1, 10, 20, 30]


@pytest.mark.parametrize(("revision", "target"), [(5, None), (100, None), (101, 1), (250, 150)])
def test_the_last_revisions_are_kept(revision: int, target: int | None) -> None:
    plan = CompactionPlan(RevisionCompaction(keep_revisions=100), 0.0, 1)
    assert plan.pause_s == 300.0
    assert plan.look(300.0, revision) == target


def test_a_revision_is_compacted_once() -> None:
    plan = CompactionPlan(RevisionCompaction(keep_revisions=100), 0.0, 1)
    plan.compacted(300.0, 150)
    assert plan.look(600.0, 250) is None
    assert plan.look(900.0, 251) == 151
