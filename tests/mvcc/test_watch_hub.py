"""What watchers are promised: everything in order, once, without gaps, whatever their sinks do."""

import pytest
from kvnode.mvcc.errors import CompactedError, WatchRangeEmptyError
from kvnode.mvcc.watch import WatchHub, WatchSpec
from kvnode.pb import kv_pb2 as kv
from kvnode.pb import rpc_pb2 as rpc
from kvtest.state_machine import StateMachine

ALL = WatchSpec(b"\0", b"\0")


class Sink:
    """Takes a given number of deliveries, then refuses until it is drained."""

    def __init__(self, room=10**9):
        self.room = room
        self.deliveries = []
        self.compact_revision = None

    def deliver(self, watcher, revision, batch):
        if self.room <= 0:
            return False
        self.room -= 1
        self.deliveries.append((revision, batch))
        return True

    def compacted(self, watcher, compact_revision):
        assert self.compact_revision is None
        self.compact_revision = compact_revision

    @property
    def revisions(self):
        """The header revisions."""
        return [revision for revision, _ in self.deliveries]

    @property
    def seen(self):
        """(mod revision, key, deleted) of every event."""
        return [
            (event.mod_revision, event.key, event.is_deletion)
            for _, batch in self.deliveries
            for event in batch.events
        ]

    @property
    def messages(self):
        """Every event as a message."""
        return [message for _, batch in self.deliveries for message in batch.messages()]


class World:
    """A state machine with a hub on it, wired as a member does."""

    def __init__(self):
        self.machine = StateMachine()
        self.hub = WatchHub(self.machine.applier.store)
        self._told = 0

    def put(self, key, value=b"v"):
        self.machine.put(key, value)
        self._tell()

    def delete(self, key, range_end=b""):
        self.machine.delete(key, range_end)
        self._tell()

    def txn(self, *ops):
        self.machine.do(rpc.TxnRequest(success=ops))
        self._tell()

    def watch(self, spec, room=10**9):
        sink = Sink(room)
        return self.hub.create(spec, sink), sink

    def settle(self, max_revisions=1000):
        while self.hub.catch_up(max_revisions):
            pass

    def _tell(self):
        for batch in self.machine.batches[self._told :]:
            for revision, changes in batch.changes:
                self.hub.notify(revision, changes)
        self._told = len(self.machine.batches)


@pytest.fixture
def world():
    return World()


def test_a_watch_without_start_sees_what_comes_from_now_on(world):
    world.put(b"a")
    watcher, sink = world.watch(ALL)
    assert watcher.is_synced
    world.put(b"a")
    world.delete(b"a")
    assert sink.seen == [(3, b"a", False), (4, b"a", True)]
    assert sink.revisions == [3, 4]


def test_creating_a_watch_never_calls_its_sink(world):
    world.put(b"a")
    watcher, sink = world.watch(ALL._replace(start_revision=2))
    assert (sink.deliveries, watcher.is_synced) == ([], False)


def test_a_watch_of_the_past_catches_up_under_the_current_revision(world):
    world.put(b"a")
    world.put(b"b")
    world.delete(b"a")
    _, sink = world.watch(ALL._replace(start_revision=2))
    world.settle()
    assert sink.seen == [(2, b"a", False), (3, b"b", False), (4, b"a", True)]
    assert sink.revisions == [4]


def test_catching_up_takes_so_many_revisions_at_a_time(world):
    for _ in range(10):
        world.put(b"a")
    _, sink = world.watch(ALL._replace(start_revision=2))
    world.settle(max_revisions=4)
    assert [len(batch) for _, batch in sink.deliveries] == [4, 4, 2]
    assert [revision for revision, _, _ in sink.seen] == list(range(2, 12))


def test_what_is_written_while_catching_up_is_neither_lost_nor_repeated(world):
    for _ in range(6):
        world.put(b"a")
    watcher, sink = world.watch(ALL._replace(start_revision=2))
    assert world.hub.catch_up(2)
    world.put(b"a")
    world.settle(2)
    world.put(b"a")
    assert watcher.is_synced
    assert [revision for revision, _, _ in sink.seen] == list(range(2, 10))


def test_all_events_of_a_revision_come_together_in_order_of_execution(world):
    ops = [rpc.RequestOp(request_put=rpc.PutRequest(key=key)) for key in (b"b", b"a", b"c")]
    _, live = world.watch(ALL)
    world.txn(*ops)
    _, late = world.watch(ALL._replace(start_revision=2))
    world.settle(1)
    expected = [(2, b"b", False), (2, b"a", False), (2, b"c", False)]
    assert [sink.seen for sink in (live, late)] == [expected, expected]
    assert len(live.deliveries) == len(late.deliveries) == 1


def test_only_the_keys_of_the_range_are_told(world):
    _, one = world.watch(WatchSpec(b"k1"))
    _, prefix = world.watch(WatchSpec(b"k", b"l"))
    _, rest = world.watch(WatchSpec(b"k2", b"\0"))
    for key in (b"k1", b"k2", b"l"):
        world.put(key)
    assert [key for _, key, _ in one.seen] == [b"k1"]
    assert [key for _, key, _ in prefix.seen] == [b"k1", b"k2"]
    assert [key for _, key, _ in rest.seen] == [b"k2", b"l"]


def test_an_empty_key_means_the_first_key(world):
    _, sink = world.watch(WatchSpec(b"", b"\0"))
    world.put(b"a")
    assert sink.seen == [(2, b"a", False)]


@pytest.mark.parametrize("bounds", [(b"b", b"a"), (b"b", b"b")], ids=["reversed", "equal"])
def test_a_range_without_keys_is_refused(world, bounds):
    with pytest.raises(WatchRangeEmptyError, match="mvcc: watcher range is empty"):
        world.watch(WatchSpec(*bounds))


def test_a_negative_start_is_refused_as_compacted(world):
    with pytest.raises(CompactedError):
        world.watch(ALL._replace(start_revision=-1))


def test_a_start_in_the_future_hears_nothing_before_it(world):
    """etcd issue 20221: no event and no progress before the start."""
    watcher, sink = world.watch(ALL._replace(start_revision=4))
    assert world.hub.progress([watcher]) is None
    world.put(b"a")
    world.put(b"a")
    assert (sink.deliveries, world.hub.progress([watcher])) == ([], None)
    world.put(b"a")
    assert [revision for revision, _, _ in sink.seen] == [4]
    assert world.hub.progress([watcher]) == 4


def test_a_start_in_the_future_survives_a_change_of_store(world):
    watcher, sink = world.watch(ALL._replace(start_revision=5))
    world.hub.reset(world.machine.applier.store)
    world.settle()
    for _ in range(4):
        world.put(b"a")
    assert watcher.is_synced
    assert [revision for revision, _, _ in sink.seen] == [5]


def test_filters_leave_out_what_they_name_and_send_nothing_if_nothing_is_left(world):
    _, deletions = world.watch(ALL._replace(no_put=True))
    _, puts = world.watch(ALL._replace(no_delete=True))
    world.put(b"a")
    world.delete(b"a")
    assert deletions.seen == [(3, b"a", True)]
    assert puts.seen == [(2, b"a", False)]


def test_previous_pairs_are_those_before_the_change(world):
    _, live = world.watch(ALL._replace(prev_kv=True))
    world.put(b"a", b"1")
    world.put(b"a", b"2")
    world.delete(b"a")
    world.put(b"a", b"3")
    _, late = world.watch(ALL._replace(prev_kv=True, start_revision=2))
    world.settle()
    for sink in (live, late):
        assert [event.prev_kv.value for event in sink.messages] == [b"", b"1", b"2", b""]
        assert [event.HasField("prev_kv") for event in sink.messages] == [False, True, True, False]


def test_a_deletion_tells_key_and_revision_only(world):
    _, sink = world.watch(ALL)
    world.put(b"a", b"1")
    world.delete(b"a")
    assert sink.messages[1] == kv.Event(type=kv.Event.DELETE, kv=kv.KeyValue(key=b"a", mod_revision=3))


def test_a_previous_pair_that_was_compacted_is_left_out(world):
    world.put(b"a", b"1")
    world.put(b"a", b"2")
    world.put(b"a", b"3")
    world.machine.compact(3, finish=False)
    _, sink = world.watch(ALL._replace(prev_kv=True, start_revision=3))
    world.settle()
    assert [event.prev_kv.value for event in sink.messages] == [b"", b"2"]


def test_watchers_of_one_range_share_the_encoded_batch(world):
    sinks = [world.watch(ALL)[1] for _ in range(3)]
    world.put(b"a")
    batches = {id(sink.deliveries[0][1]) for sink in sinks}
    assert len(batches) == 1


def test_a_full_sink_gets_everything_once_it_has_room(world):
    watcher, sink = world.watch(ALL, room=1)
    for _ in range(5):
        world.put(b"a")
    assert not watcher.is_synced
    assert world.hub.progress([watcher]) is None
    assert not world.hub.catch_up()
    sink.room = 10
    world.settle(2)
    world.put(b"a")
    assert watcher.is_synced
    assert [revision for revision, _, _ in sink.seen] == [2, 3, 4, 5, 6, 7]


def test_a_full_sink_holds_up_nobody_else(world):
    world.watch(ALL, room=0)
    _, other = world.watch(ALL)
    world.put(b"a")
    world.put(b"a")
    assert other.revisions == [2, 3]
    assert world.hub.slow_count == 1


def test_a_refused_batch_is_offered_again_with_its_own_revision(world):
    _, sink = world.watch(ALL, room=0)
    world.put(b"a")
    world.put(b"a")
    sink.room = 10
    world.settle()
    assert sink.revisions == [2, 3]


def test_a_start_below_the_compact_revision_ends_the_watch(world):
    for _ in range(4):
        world.put(b"a")
    world.machine.compact(4)
    watcher, sink = world.watch(ALL._replace(start_revision=3))
    assert watcher.is_active
    world.settle()
    assert (sink.compact_revision, sink.deliveries, watcher.is_active) == (4, [], False)
    assert len(world.hub) == 0


def test_a_start_at_the_compact_revision_is_served_with_a_deletion_there(world):
    """etcd issue 19179: a deletion exactly at the compact revision is still told."""
    world.put(b"a")
    world.delete(b"a")
    world.machine.compact(3)
    _, sink = world.watch(ALL._replace(start_revision=3))
    world.settle()
    assert sink.seen == [(3, b"a", True)]


def test_a_slow_watcher_that_was_overtaken_by_compaction_ends(world):
    watcher, sink = world.watch(ALL, room=1)
    for _ in range(5):
        world.put(b"a")
    world.machine.compact(6)
    sink.room = 10
    world.settle()
    # The refused batch was still in hand; what came behind it is gone.
    assert [revision for revision, _, _ in sink.seen] == [2, 3]
    assert (sink.compact_revision, watcher.is_active) == (6, False)


def test_synced_watchers_do_not_care_about_compaction(world):
    _, sink = world.watch(ALL)
    world.put(b"a")
    world.put(b"a")
    world.machine.compact(3)
    world.put(b"a")
    assert (sink.revisions, sink.compact_revision) == ([2, 3, 4], None)


def test_a_cancelled_watcher_hears_nothing_more(world):
    watcher, sink = world.watch(ALL)
    behind, late = world.watch(ALL._replace(start_revision=1))
    world.hub.cancel(watcher)
    world.hub.cancel(watcher)
    world.hub.cancel(behind)
    world.put(b"a")
    world.settle()
    assert (sink.deliveries, late.deliveries, len(world.hub)) == ([], [], 0)


def test_a_blocked_watcher_can_be_cancelled(world):
    watcher, sink = world.watch(ALL, room=0)
    world.put(b"a")
    world.hub.cancel(watcher)
    sink.room = 1
    world.settle()
    assert (sink.deliveries, world.hub.needs_catch_up) == ([], False)


def test_progress_speaks_for_all_watchers_or_not_at_all(world):
    first, _ = world.watch(ALL)
    second, sink = world.watch(ALL, room=0)
    assert world.hub.progress([first, second]) == 1
    world.put(b"a")
    assert world.hub.progress([first]) == 2
    assert world.hub.progress([first, second]) is None
    sink.room = 1
    world.settle()
    assert world.hub.progress([first, second]) == 2


def test_progress_without_watchers_is_the_current_revision(world):
    """etcd issue 17507: it works on a stream that never had an event."""
    world.put(b"a")
    assert world.hub.progress([]) == 2


def test_a_store_replaced_by_a_snapshot_is_caught_up_with(world):
    synced, sink = world.watch(ALL)
    blocked, full = world.watch(ALL, room=0)
    world.put(b"a")
    ahead = World()
    for key in (b"a", b"b", b"c"):
        ahead.put(key)
    world.hub.reset(ahead.machine.applier.store)
    assert world.hub.progress([synced]) is None
    full.room = 10
    world.settle()
    assert [event[:2] for event in sink.seen] == [(2, b"a"), (3, b"b"), (4, b"c")]
    assert [event[:2] for event in full.seen] == [(2, b"a"), (3, b"b"), (4, b"c")]
    assert synced.is_synced
    assert blocked.is_synced


def test_a_snapshot_compacted_beyond_a_watcher_ends_it(world):
    watcher, sink = world.watch(ALL)
    ahead = World()
    for _ in range(5):
        ahead.put(b"a")
    ahead.machine.compact(5)
    world.hub.reset(ahead.machine.applier.store)
    world.settle()
    assert (sink.compact_revision, watcher.is_active) == (5, False)


def test_many_far_behind_watchers_are_each_served_in_turn(world):
    for _ in range(60):
        world.put(b"a")
    pairs = [world.watch(ALL._replace(start_revision=start)) for start in (2, 30, 55)]
    # One far behind must not make those near the head wait for it.
    for _ in range(3):
        world.hub.catch_up(5)
    assert all(sink.deliveries for _, sink in pairs)
    world.settle(5)
    assert [[revision for revision, _, _ in sink.seen] for _, sink in pairs] == [
        list(range(start, 62)) for start in (2, 30, 55)
    ]


def test_a_sink_that_fills_up_while_catching_up_misses_nothing(world):
    for _ in range(9):
        world.put(b"a")
    watcher, sink = world.watch(ALL._replace(start_revision=2), room=1)
    world.settle(2)
    for _ in range(4):
        world.put(b"a")
        sink.room = 1
        world.settle(2)
    sink.room = 100
    world.settle(2)
    assert watcher.is_synced
    assert [revision for revision, _, _ in sink.seen] == list(range(2, 15))


def test_a_slice_ends_once_it_has_read_much_even_of_keys_that_nobody_watches(world):
    for number in range(12):
        world.put(b"large%d" % number, b"v" * 2**20)
    world.put(b"small")
    sink = Sink()
    world.hub.create(WatchSpec(b"small", start_revision=2), sink)
    slices = 1
    while world.hub.catch_up():
        slices += 1
    assert sink.revisions == [14]
    assert slices >= 3


def test_a_pair_put_and_deleted_by_one_transaction_had_the_revision_before_as_previous(world):
    world.put(b"old", b"before")
    sink = Sink()
    world.hub.create(ALL._replace(prev_kv=True), sink)
    for key in (b"old", b"new"):
        nested = rpc.TxnRequest(success=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))])
        world.txn(
            rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=b"meanwhile")),
            rpc.RequestOp(request_txn=nested),
        )
    previous = [(event.type, event.prev_kv.value) for event in sink.messages]
    # At the deletion of the new key nothing was known of it before.
    assert previous == [
        (kv.Event.PUT, b"before"),
        (kv.Event.DELETE, b"before"),
        (kv.Event.PUT, b""),
        (kv.Event.DELETE, b""),
    ]
    again = Sink()
    world.hub.create(ALL._replace(prev_kv=True, start_revision=3), again)
    while world.hub.catch_up():
        pass
    assert again.messages == sink.messages
