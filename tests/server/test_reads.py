"""Linearizable reads share rounds, and an old round's answer is never taken for a new one's."""

from kvnode.server.errors import (
    LeaderFailureTimeoutError,
    RequestTimeoutError,
    StoppedError,
    TooManyRequestsError,
)
from kvnode.server.reads import RETRY_S, Reads


class Outcomes:
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def of(self, name: str):
        return lambda error: self.told.append((name, error))


def begun(reads: Reads, now_s: float = 0.0) -> bytes:
    context = reads.next_context(now_s)
    assert context is not None
    return context


def test_reads_that_come_before_a_round_share_it():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("a"), 0.0)
    reads.add(outcomes.of("b"), 0.0)
    reads.confirmed(5, begun(reads))
    assert outcomes.told == []
    reads.applied(5)
    assert outcomes.told == [("a", None), ("b", None)]


def test_a_read_that_comes_during_a_round_waits_for_the_next():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("early"), 0.0)
    context = begun(reads)
    reads.add(outcomes.of("late"), 0.1)
    assert reads.next_context(0.1) is None
    assert reads.confirmed(5, context)
    reads.applied(9)
    assert outcomes.told == [("early", None)]
    reads.confirmed(9, begun(reads, 0.2))
    reads.applied(9)
    assert outcomes.told[-1] == ("late", None)


def test_a_read_waits_until_its_index_is_applied():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("a"), 0.0)
    reads.confirmed(5, begun(reads))
    reads.applied(4)
    assert outcomes.told == []
    reads.applied(6)
    assert outcomes.told == [("a", None)]


def test_the_answer_to_an_abandoned_round_is_not_used():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("a"), 0.0)
    old = begun(reads)
    new = begun(reads, RETRY_S)
    reads.add(outcomes.of("b"), RETRY_S)
    reads.confirmed(5, old)
    reads.applied(5)
    assert outcomes.told == []
    reads.confirmed(7, new)
    reads.applied(7)
    assert outcomes.told == [("a", None)]


def test_contexts_differ_between_members_processes_and_rounds():
    contexts = set()
    for member, session in ((1, 1), (1, 2), (2, 1)):
        reads = Reads(member, session, timeout_s=7)
        for now_s in (0.0, 1.0):
            reads.add(lambda error: None, now_s)
            contexts.add(begun(reads, now_s))
    assert len(contexts) == 6


def test_a_new_leader_is_asked_at_once():
    reads = Reads(1, 1, timeout_s=7)
    reads.add(lambda error: None, 100.0)
    begun(reads, 100.0)
    assert reads.next_context(100.1) is None
    reads.leader_changed()
    assert reads.next_context(100.1) is not None


def test_reads_fail_at_their_deadline_wherever_they_wait():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("confirmed"), 0.0)
    reads.confirmed(50, begun(reads))
    reads.add(outcomes.of("asked"), 1.0)
    begun(reads, 1.0)
    reads.add(outcomes.of("arrived"), 2.0)
    reads.expire(6.9)
    assert outcomes.told == []
    reads.expire(9.0)
    assert {name: type(error) for name, error in outcomes.told} == {
        "confirmed": RequestTimeoutError,
        "asked": RequestTimeoutError,
        "arrived": RequestTimeoutError,
    }
    assert reads.failed == 3
    assert len(reads) == 0


def test_a_timeout_after_the_loss_of_a_leader_says_so():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.leader_lost_s = 1.0
    reads.add(outcomes.of("a"), 0.0)
    reads.expire(7.0)
    assert [type(error) for _, error in outcomes.told] == [LeaderFailureTimeoutError]


def test_after_the_end_everything_fails_as_stopped():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("a"), 0.0)
    begun(reads)
    reads.add(outcomes.of("b"), 0.0)
    reads.abandon()
    assert {name: type(error) for name, error in outcomes.told} == {"a": StoppedError, "b": StoppedError}


def test_more_reads_than_memory_is_meant_for_are_refused_at_once():
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    for number in range(Reads.LIMIT_COUNT):
        reads.add(outcomes.of(str(number)), 0.0)
    assert outcomes.told == []
    reads.add(outcomes.of("one more"), 0.0)
    [(name, error)] = outcomes.told
    assert (name, type(error)) == ("one more", TooManyRequestsError)
    reads.confirmed(5, begun(reads))
    reads.applied(5)
    while reads.ready:
        reads.release()
    reads.add(outcomes.of("later"), 1.0)
    assert len(outcomes.told) == Reads.LIMIT_COUNT + 1


def test_renewals_and_probes_are_answered_when_the_reads_of_clients_are_refused(monkeypatch):
    monkeypatch.setattr(Reads, "LIMIT_COUNT", 1)
    monkeypatch.setattr(Reads, "RESERVE_COUNT", 1)
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    reads.add(outcomes.of("a"), 0.0)
    reads.add(outcomes.of("of a client"), 0.0)
    reads.add(outcomes.of("renewal"), 0.0, is_urgent=True)
    assert [name for name, _ in outcomes.told] == ["of a client"]
    reads.add(outcomes.of("one more renewal"), 0.0, is_urgent=True)
    reads.confirmed(5, begun(reads))
    reads.applied(5)
    told = {name: type(error) for name, error in outcomes.told}
    assert told == {
        "of a client": TooManyRequestsError,
        "one more renewal": TooManyRequestsError,
        "a": type(None),
        "renewal": type(None),
    }


def test_reads_that_become_due_together_go_a_turn_s_share_at_a_time_and_renewals_first(monkeypatch):
    monkeypatch.setattr(Reads, "TURN_COUNT", 2)
    reads, outcomes = Reads(1, 1, timeout_s=7), Outcomes()
    for name in "abcde":
        reads.add(outcomes.of(name), 0.0)
    reads.add(outcomes.of("renewal"), 0.0, is_urgent=True)
    reads.confirmed(5, begun(reads))
    reads.applied(5)
    assert [name for name, _ in outcomes.told] == ["renewal", "a", "b"]
    assert len(reads) == 3
    reads.release()
    reads.release()
    assert [name for name, _ in outcomes.told] == ["renewal", *"abcde"]
    assert not reads.ready
