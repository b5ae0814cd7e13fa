"""A leader's view of one member: when it may send, and where it starts again."""

import pytest
from kvnode.raft.progress import Inflights, Progress, ProgressState

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def progress_in(state: ProgressState, *, match: int = 0, next_index: int = 1) -> Progress:
    progress = Progress(next_index, Inflights(2, 100), is_learner=False)
    progress.match_index = match
    progress.state = state
    return progress


@pytest.mark.parametrize(
    ("state", "match", "next_index", "rejected", "hint", "expected"),
    [
        pytest.param(PROBE, 0, 10, 9, 4, (True, 5), id="probe-jumps-to-the-hint"),
        pytest.param(PROBE, 0, 10, 9, 20, (True, 9), id="probe-never-moves-forward"),
        pytest.param(PROBE, 6, 10, 9, 2, (True, 7), id="probe-never-goes-below-the-match"),
        pytest.param(PROBE, 0, 10, 5, 4, (False, 10), id="probe-ignores-an-older-rejection"),
        pytest.param(REPLICATE, 5, 10, 8, 6, (True, 7), id="replicate-starts-over-at-the-hint"),
        pytest.param(REPLICATE, 5, 10, 5, 3, (False, 10), id="replicate-ignores-what-is-known-to-match"),
        pytest.param(SNAPSHOT, 0, 10, 9, 4, (False, 10), id="snapshot-ignores-all"),
    ],
)
def test_a_rejection_moves_the_next_index_back(state, match, next_index, rejected, hint, expected):
    progress = progress_in(state, match=match, next_index=next_index)
    assert (progress.retreat(rejected, hint), progress.next_index) == expected
    if expected[0]:
        assert progress.state is PROBE


def test_an_answer_moves_match_and_next():
    progress = progress_in(REPLICATE, match=3, next_index=9)
    assert [progress.advance(index) for index in (5, 4, 5, 12)] == [True, False, False, True]
    assert (progress.match_index, progress.next_index) == (12, 13)


def test_probing_sends_one_append_at_a_time():
    progress = progress_in(PROBE)
    assert not progress.is_paused()
    progress.probe_sent = True
    assert progress.is_paused()


def test_replicating_sends_until_too_much_is_under_way():
    progress = progress_in(REPLICATE)
    progress.inflights.add(1, 10)
    assert not progress.is_paused()
    progress.inflights.add(2, 10)
    assert progress.is_paused()
    progress.inflights.free_to(1)
    assert not progress.is_paused()
    progress.inflights.add(3, 95)
    assert progress.is_paused()


def test_an_answer_frees_everything_before_it():
    inflights = Inflights(10, 1000)
    for index in (3, 5, 9):
        inflights.add(index, index)
    inflights.free_to(6)
    assert (len(inflights), inflights.size_bytes) == (1, 9)
    inflights.clear()
    assert (len(inflights), inflights.size_bytes) == (0, 0)


def test_a_member_that_has_its_snapshot_is_probed_behind_it():
    progress = progress_in(PROBE, match=2)
    progress.become_snapshot(20)
    assert progress.is_paused()
    progress.become_probe()
    assert (progress.state, progress.next_index, progress.pending_snapshot) == (PROBE, 21, 0)


def test_a_member_that_replicates_continues_behind_its_match():
    progress = progress_in(PROBE, match=7, next_index=20)
    progress.probe_sent = True
    progress.become_replicate()
    assert (progress.state, progress.next_index, progress.is_paused()) == (REPLICATE, 8, False)
