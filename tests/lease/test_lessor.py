"""Leases: the replicated half by itself, and the leader's clock over it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.lease.errors import (
    LeaseExistsError,
    LeaseNotFoundError,
    LeaseTtlTooLargeError,
    NotPrimaryError,
)
from kvnode.lease.lessor import (
    CHECKPOINT_INTERVAL_S,
    EXPIRIES_PER_S,
    MAX_TTL_S,
    REVOKE_RETRY_S,
    LeaseLife,
    Lessor,
)
from kvnode.storage.memory import MemoryEngine


class World:
    """A lessor over memory."""

    def __init__(self, *ttls_s):
        self.engine = MemoryEngine()
        self.lessor = Lessor()
        for lease_id, ttl_s in enumerate(ttls_s, start=1):
            self.grant(lease_id, ttl_s)

    def _write(self, change):
        batch = self.engine.batch()
        result = change(batch)
        self.engine.write(batch)
        return result

    def grant(self, lease_id, ttl_s):
        return self._write(lambda batch: self.lessor.grant(lease_id, ttl_s, batch))

    def revoke(self, lease_id):
        return self._write(lambda batch: self.lessor.revoke(lease_id, batch))

    def checkpoint(self, lease_id, remaining_s):
        self._write(lambda batch: self.lessor.checkpoint(lease_id, remaining_s, batch))

    def reopen(self, attachments=None):
        self.lessor = Lessor.open(self.engine, attachments or {})


def test_an_id_is_granted_once():
    world = World(10)
    with pytest.raises(LeaseExistsError, match="lease already exists"):
        world.grant(1, 10)


@pytest.mark.parametrize(
    ("lease_id", "ttl_s", "error"),
    [
        pytest.param(0, MAX_TTL_S + 1, LeaseNotFoundError, id="no-lease-has-id-0"),
        pytest.param(1, MAX_TTL_S + 1, LeaseTtlTooLargeError, id="ttl-is-checked-before-the-id"),
        pytest.param(1, MAX_TTL_S, LeaseExistsError, id="id-is-taken"),
    ],
)
def test_errors_of_a_grant_come_in_etcds_order(lease_id, ttl_s, error):
    with pytest.raises(error):
        World(10).grant(lease_id, ttl_s)


def test_a_refused_grant_changes_nothing():
    world = World(10)
    before = dict(world.engine.iterate())
    with pytest.raises(LeaseTtlTooLargeError):
        world.grant(2, MAX_TTL_S + 1)
    assert (2 in world.lessor, dict(world.engine.iterate())) == (False, before)


def test_revoking_returns_the_keys_in_order():
    world = World(10)
    for key in (b"c", b"a", b"b"):
        world.lessor.attach(key, 1)
    world.lessor.detach(b"b", 1)
    assert world.revoke(1) == [b"a", b"c"]
    with pytest.raises(LeaseNotFoundError, match="requested lease not found"):
        world.revoke(1)


def test_leases_and_checkpoints_survive_a_restart():
    world = World(10, 400)
    world.grant(-5, 7)
    world.checkpoint(2, 100)
    world.reopen({b"k": 2, b"orphan": 99})
    assert {world.lessor.get(lease).ttl_s for lease in (1, 2, -5)} == {10, 400, 7}
    assert world.lessor.get(2).remaining_s == 100
    assert world.lessor.get(2).keys == {b"k"}
    world.revoke(-5)
    world.reopen()
    assert world.lessor.leases() == [1, 2]


def test_without_leadership_there_is_no_clock():
    world = World(10)
    assert world.lessor.expired(1e9, 10) == []
    with pytest.raises(NotPrimaryError, match="not a primary lessor"):
        world.lessor.renew(1, 0.0)
    with pytest.raises(NotPrimaryError):
        world.lessor.time_to_live(1, 0.0)


def test_a_new_leader_gives_every_lease_its_full_ttl_and_an_election_more():
    world = World(10, 20)
    world.lessor.promote(100.0, 1.5)
    assert world.lessor.expired(111.4, 10) == []
    assert world.lessor.expired(111.5, 10) == [1]
    assert world.lessor.expired(121.5, 10) == [1, 2]


def test_a_new_leader_continues_from_a_checkpoint():
    world = World(400)
    world.checkpoint(1, 30)
    world.lessor.promote(0.0, 1.0)
    assert world.lessor.time_to_live(1, 0.0) == LeaseLife(400, 31, ())


def test_a_lease_granted_under_a_leader_starts_when_the_clock_is_next_read():
    world = World()
    world.lessor.promote(0.0, 1.0)
    world.grant(1, 10)
    assert world.lessor.expired(5.0, 10) == []
    assert world.lessor.time_to_live(1, 5.0) == LeaseLife(10, 10, ())
    assert world.lessor.expired(15.0, 10) == [1]


def test_renewing_starts_the_ttl_anew():
    world = World(10)
    world.lessor.promote(0.0, 0.0)
    assert world.lessor.renew(1, 8.0) == 10
    assert world.lessor.expired(17.9, 10) == []
    assert world.lessor.expired(18.0, 10) == [1]


def test_renewing_never_shortens():
    world = World(10)
    world.lessor.promote(0.0, 5.0)
    world.lessor.renew(1, 1.0)
    assert world.lessor.time_to_live(1, 1.0) == LeaseLife(10, 14, ())


def test_a_lease_whose_time_is_up_can_be_neither_renewed_nor_asked():
    world = World(10)
    world.lessor.promote(0.0, 0.0)
    assert (world.lessor.renew(1, 10.0), world.lessor.time_to_live(1, 10.0)) == (0, None)
    assert (world.lessor.renew(7, 0.0), world.lessor.time_to_live(7, 0.0)) == (0, None)


def test_the_remaining_time_is_truncated_to_seconds():
    world = World(10)
    world.lessor.attach(b"k", 1)
    world.lessor.promote(0.0, 0.0)
    assert world.lessor.time_to_live(1, 3.1) == LeaseLife(10, 6, (b"k",))


def test_an_expired_lease_is_reported_again_until_it_is_revoked():
    world = World(10)
    world.lessor.promote(0.0, 0.0)
    assert world.lessor.expired(10.0, 10) == [1]
    assert world.lessor.expired(10.0 + REVOKE_RETRY_S / 2, 10) == []
    assert world.lessor.expired(10.0 + REVOKE_RETRY_S, 10) == [1]
    world.revoke(1)
    assert world.lessor.expired(100.0, 10) == []


def test_expiries_are_taken_in_portions():
    world = World(1, 1, 1)
    world.lessor.promote(0.0, 0.0)
    assert [world.lessor.expired(1.0, 2), world.lessor.expired(1.0, 2)] == [[1, 2], [3]]


def test_many_leases_do_not_all_expire_at_once_after_a_change_of_leader():
    world = World(*([5] * (2 * EXPIRIES_PER_S + 1)))
    world.lessor.promote(0.0, 0.0)
    counts = [len(world.lessor.expired(second, 10**6)) for second in (5.0, 6.0, 7.0)]
    assert counts == [EXPIRIES_PER_S, EXPIRIES_PER_S, 1]


def test_a_member_that_lost_leadership_forgets_the_clock():
    world = World(10)
    world.lessor.promote(0.0, 0.0)
    world.lessor.demote()
    assert (world.lessor.expired(1e9, 10), world.lessor.next_expiry_s()) == ([], None)
    world.lessor.promote(50.0, 0.0)
    assert world.lessor.expired(59.9, 10) == []


def test_leases_are_listed_by_expiry_on_the_leader_and_by_id_elsewhere():
    world = World(30, 10, 20)
    assert world.lessor.leases() == [1, 2, 3]
    world.lessor.promote(0.0, 0.0)
    assert world.lessor.leases() == [2, 3, 1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grant", "renew", "revoke", "wait"]), st.integers(1, 4), st.integers(1, 9)
        ),
        max_size=60,
    )
)
def test_a_lease_expires_exactly_its_ttl_after_its_last_renewal(steps):
    """Against plain dictionaries; expiries are looked for at every step, as the leader does."""
    world = World()
    world.lessor.promote(0.0, 0.0)
    now = 0.0
    expiry, ttl = {}, {}
    for action, lease_id, number in steps:
        if action == "wait":
            now += number
        elif action == "grant" and lease_id not in ttl:
            world.grant(lease_id, number)
            ttl[lease_id], expiry[lease_id] = number, now + number
        elif action == "renew":
            is_alive = lease_id in ttl and expiry[lease_id] > now
            assert world.lessor.renew(lease_id, now) == (ttl[lease_id] if is_alive else 0)
            if is_alive:
                expiry[lease_id] = now + ttl[lease_id]
        elif action == "revoke" and lease_id in ttl:
            world.revoke(lease_id)
            del ttl[lease_id], expiry[lease_id]
        due = {lease for lease, when in expiry.items() if when <= now}
        for lease in world.lessor.expired(now, 100):
            assert lease in due
            world.revoke(lease)
            due.discard(lease)
            del ttl[lease], expiry[lease]
        assert not due


def test_a_checkpoint_is_due_for_a_long_lease_that_was_not_renewed_for_five_minutes():
    world = World(3600, 200, int(CHECKPOINT_INTERVAL_S))
    world.lessor.promote(0.0, 0.0)
    assert world.lessor.checkpoints_due(299.0, 10) == []
    assert world.lessor.checkpoints_due(300.0, 10) == [(1, 3300)]
    assert world.lessor.checkpoints_due(300.5, 10) == []
    assert world.lessor.renew(1, 500.0) == 3600
    assert world.lessor.checkpoints_due(600.0, 10) == []
    assert world.lessor.checkpoints_due(799.5, 10) == []
    assert world.lessor.checkpoints_due(800.2, 10) == [(1, 3300)]


def test_checkpoints_are_due_at_most_so_many_at_a_time_and_none_of_revoked_leases():
    world = World(*[1000] * 10)
    world.lessor.promote(0.0, 0.0)
    world.revoke(1)
    first = world.lessor.checkpoints_due(400.0, 4)
    rest = world.lessor.checkpoints_due(400.0, 100)
    assert sorted(lease_id for lease_id, _ in first + rest) == list(range(2, 11))
    assert {remaining_s for _, remaining_s in first + rest} == {600}
    world.lessor.demote()
    assert world.lessor.checkpoints_due(800.0, 10) == world.lessor.checkpoints(800.0) == []


def test_a_leader_that_hands_over_tells_what_is_left_of_each_lease_rounded_up():
    world = World(10, 20, 3600)
    world.lessor.promote(0.0, 0.0)
    world.lessor.renew(2, 5.2)
    assert world.lessor.checkpoints(5.2) == [(1, 5), (3, 3595)]
    assert world.lessor.checkpoints(12.0) == [(2, 14), (3, 3588)]


def test_what_is_left_of_some_leases_is_told_as_of_now_without_those_renewed_or_revoked():
    world = World(10, 20, 30, 40)
    world.lessor.promote(0.0, 0.0)
    asked = [lease_id for lease_id, _ in world.lessor.checkpoints(5.0)]
    world.lessor.renew(2, 5.5)
    world.revoke(3)
    assert world.lessor.checkpoints(5.5, asked) == [(1, 5), (4, 35)]
    assert world.lessor.checkpoints(5.5, [4]) == [(4, 35)]


def test_a_lease_is_known_to_have_a_checkpoint_from_when_it_is_on_its_way_until_one_of_zero():
    world = World(1000)
    world.lessor.promote(0.0, 0.0)
    assert not world.lessor.has_checkpoint(1)
    world.lessor.checkpoint_begun([1])
    world.lessor.checkpoint_begun([1])
    world.lessor.checkpoint_applied([1])
    assert world.lessor.has_checkpoint(1)
    world.lessor.checkpoint_applied([1])
    assert not world.lessor.has_checkpoint(1)
    world.checkpoint(1, 700)
    assert world.lessor.has_checkpoint(1)
    world.checkpoint(1, 0)
    assert not world.lessor.has_checkpoint(1)
    assert not world.lessor.has_checkpoint(2)


def test_expiries_are_cut_into_batches_by_their_keys_too():
    world = World(*[10] * 6)
    for lease_id in range(1, 7):
        for number in range(100):
            world.lessor.attach(b"%d %d" % (lease_id, number), lease_id)
    world.lessor.promote(0.0, 0.0)
    assert len(world.lessor.expired(11.0, 100, limit_keys=250)) == 3
    assert len(world.lessor.expired(11.0, 100, limit_keys=250)) == 3
    assert world.lessor.expired(11.0, 100, limit_keys=250) == []
