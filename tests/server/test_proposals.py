"""Writes on their way through the log: answered once, proposed again only when lost for certain."""

from kvnode.apply.commands import CommandKind, decode_commands
from kvnode.server.errors import (
    LeaderChangedError,
    LeaderFailureTimeoutError,
    RequestTimeoutError,
    StoppedError,
    TooManyRequestsError,
)
from kvnode.server.proposals import ALONE_BYTES, Proposals


class Outcomes:
    """Collects what the callers of writes were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def of(self, name: str):
        return lambda result: self.told.append((name, result))


def ids_in(datas: list[bytes]) -> list[int]:
    return [request_id for data in datas for _, request_id, _ in decode_commands(data)]


def test_all_writes_of_a_turn_become_one_entry():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    for name in ("a", "b", "c"):
        proposals.add(CommandKind.PUT, name.encode(), outcomes.of(name), 0.0)
    (data,) = proposals.take(3, 1 << 20)
    assert [payload for _, _, payload in decode_commands(data)] == [b"a", b"b", b"c"]
    assert not proposals.has_queued


def test_a_burst_is_cut_into_entries_of_the_size_asked_for():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    for number in range(5):
        proposals.add(CommandKind.PUT, bytes(100), outcomes.of(str(number)), 0.0)
    assert [len(list(decode_commands(data))) for data in proposals.take(1, 200)] == [2, 2, 1]


def test_a_large_write_is_an_entry_of_its_own_in_its_place():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    payloads = [b"a", b"b", bytes(ALONE_BYTES), bytes(ALONE_BYTES), b"c"]
    for payload in payloads:
        proposals.add(CommandKind.PUT, payload, outcomes.of("x"), 0.0)
    datas = proposals.take(1, 1 << 20)
    assert [len(list(decode_commands(data))) for data in datas] == [2, 1, 1, 1]
    assert [payload for data in datas for _, _, payload in decode_commands(data)] == payloads


def test_a_write_is_answered_once():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"x", outcomes.of("x"), 0.0)
    (request_id,) = ids_in(proposals.take(1, 1 << 20))
    proposals.resolve([(request_id, "done"), (request_id, "again"), (999, "a stranger's")])
    assert outcomes.told == [("x", "done")]
    assert len(proposals) == 0


def test_a_write_of_a_passed_term_is_proposed_again_and_one_of_this_term_is_not():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"old", outcomes.of("old"), 0.0)
    old = ids_in(proposals.take(4, 1 << 20))
    proposals.add(CommandKind.PUT, b"new", outcomes.of("new"), 0.0)
    proposals.take(5, 1 << 20)
    assert proposals.term_passed(5)
    assert ids_in(proposals.take(5, 1 << 20)) == old
    assert not proposals.term_passed(5)
    assert outcomes.told == []


def test_a_write_that_the_old_leader_committed_is_not_proposed_again():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"x", outcomes.of("x"), 0.0)
    (request_id,) = ids_in(proposals.take(4, 1 << 20))
    proposals.resolve([(request_id, "done")])
    assert not proposals.term_passed(5)


def test_what_the_core_dropped_is_queued_again_in_order():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    for name in ("a", "b"):
        proposals.add(CommandKind.PUT, name.encode(), outcomes.of(name), 0.0)
    first = ids_in(proposals.take(2, 1 << 20))
    proposals.add(CommandKind.PUT, b"c", outcomes.of("c"), 0.0)
    proposals.dropped()
    assert ids_in(proposals.take(2, 1 << 20))[:2] == first


def test_what_was_expected_fails_with_its_term_instead_of_being_proposed_again():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.expect(outcomes.of("change"), 4, 0.0)
    assert not proposals.term_passed(5)
    assert [(name, type(result)) for name, result in outcomes.told] == [("change", LeaderChangedError)]


def test_a_snapshot_leaves_the_fate_of_older_writes_unknown():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"sent", outcomes.of("sent"), 0.0)
    proposals.take(4, 1 << 20)
    proposals.add(CommandKind.PUT, b"queued", outcomes.of("queued"), 0.0)
    proposals.skipped_to(6)
    assert [(name, type(result)) for name, result in outcomes.told] == [("sent", LeaderFailureTimeoutError)]
    assert proposals.has_queued


def test_a_write_fails_at_its_deadline_and_not_before():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"a", outcomes.of("a"), 0.0)
    proposals.add(CommandKind.PUT, b"b", outcomes.of("b"), 1.0)
    assert proposals.expire(6.9) == 0
    assert proposals.expire(7.0) == 1
    assert [(name, type(result)) for name, result in outcomes.told] == [("a", RequestTimeoutError)]


def test_a_timeout_after_the_loss_of_a_leader_says_so():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.leader_lost_s = 3.0
    proposals.add(CommandKind.PUT, b"a", outcomes.of("a"), 0.0)
    proposals.expire(7.0)
    assert [type(result) for _, result in outcomes.told] == [LeaderFailureTimeoutError]


def test_more_writes_than_the_limit_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(Proposals, "LIMIT_COUNT", 2)
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    for name in ("a", "b", "c"):
        proposals.add(CommandKind.PUT, b"", outcomes.of(name), 0.0)
    assert [(name, type(result)) for name, result in outcomes.told] == [("c", TooManyRequestsError)]


def test_more_bytes_than_the_limit_are_refused_until_some_are_answered(monkeypatch):
    monkeypatch.setattr(Proposals, "LIMIT_BYTES", 100)
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, bytes(100), outcomes.of("a"), 0.0)
    proposals.add(CommandKind.PUT, b"", outcomes.of("b"), 0.0)
    assert [(name, type(result)) for name, result in outcomes.told] == [("b", TooManyRequestsError)]
    (request_id,) = ids_in(proposals.take(1, 1 << 20))
    proposals.resolve([(request_id, "done")])
    proposals.add(CommandKind.PUT, b"", outcomes.of("c"), 0.0)
    assert outcomes.told[-1] == ("a", "done")


def test_after_the_end_everything_fails_as_stopped():
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"a", outcomes.of("a"), 0.0)
    proposals.abandon()
    proposals.add(CommandKind.PUT, b"b", outcomes.of("b"), 0.0)
    assert [(name, type(result)) for name, result in outcomes.told] == [
        ("a", StoppedError),
        ("b", StoppedError),
    ]


def test_ids_of_another_process_are_not_ours():
    ours, theirs = Proposals(1, timeout_s=7), Proposals(2, timeout_s=7)
    assert ours.is_local(ours.next_id())
    assert not ours.is_local(theirs.next_id())


def test_what_the_member_itself_has_to_say_is_taken_when_clients_are_refused(monkeypatch):
    monkeypatch.setattr(Proposals, "LIMIT_COUNT", 1)
    monkeypatch.setattr(Proposals, "RESERVE_COUNT", 2)
    proposals, outcomes = Proposals(1, timeout_s=7), Outcomes()
    proposals.add(CommandKind.PUT, b"", outcomes.of("a"), 0.0)
    proposals.add(CommandKind.PUT, b"", outcomes.of("of a client"), 0.0)
    proposals.add(CommandKind.LEASE_CHECKPOINT, b"", outcomes.of("leases"), 0.0, only_term=1)
    proposals.add(CommandKind.ALARM, b"", outcomes.of("alarm"), 0.0, is_own=True)
    assert [name for name, _ in outcomes.told] == ["of a client"]
    assert len(ids_in(proposals.take(1, 1 << 20))) == 3
    # That is bounded too.
    proposals.add(CommandKind.ALARM, b"", outcomes.of("one more alarm"), 0.0, is_own=True)
    assert [name for name, _ in outcomes.told] == ["of a client", "one more alarm"]
