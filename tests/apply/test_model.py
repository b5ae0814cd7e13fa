"""The whole state machine against a naive one: a dictionary per revision.

Random commands, reads at every readable revision, compaction in slices, restarts, and watchers with sinks
that fill up: whatever happens, reads and event streams are those of the history.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from kvnode.apply.reads import execute_range
from kvnode.mvcc.watch import WatchHub, WatchSpec
from kvnode.pb import kv_pb2 as kv
from kvnode.pb import rpc_pb2 as rpc
from kvtest.state_machine import StateMachine

KEYS = st.sampled_from([b"a", b"a1", b"a2", b"b", b"b\xff", b"c"])
VALUES = st.sampled_from([b"", b"x", b"y"])
BOUNDS = st.sampled_from(
    [(b"\0", b"\0"), (b"a", b""), (b"a", b"b"), (b"a1", b"\0"), (b"b", b"c"), (b"a1", b"b\xff"), (b"c", b"a")]
)
LEASES = st.sampled_from([0, 0, 0, 1, 2])
PUT, DELETE = kv.Event.PUT, kv.Event.DELETE


def _inside(key, start, range_end):
    if not range_end:
        return key == start
    return key >= start and (range_end == b"\0" or key < range_end)


class _Sink:
    def __init__(self):
        self.room = 1
        self.events = []
        self.ended_at = None

    def deliver(self, watcher, revision, batch):
        if not self.room:
            return False
        self.room -= 1
        assert revision >= batch.last_revision
        self.events += batch.messages()
        return True

    def compacted(self, watcher, compact_revision):
        self.ended_at = compact_revision


class Model(RuleBasedStateMachine):
    """Rules act on both; invariants compare."""

    watchers = Bundle("watchers")

    def __init__(self):
        super().__init__()
        self.machine = StateMachine()
        self.hub = WatchHub(self.machine.applier.store)
        self.told = 0
        #: State after each revision: key -> KeyValue.
        self.states = {1: {}}
        #: Events of each revision: (type, KeyValue, previous KeyValue or None).
        self.events = {}
        self.compacted = -1
        self.leases = set()
        self.pairs = []

    # The naive side.

    @property
    def revision(self):
        return max(self.states)

    def _write(self, puts=(), deletions=()):
        """Note one transaction; deletions first, as the rules below do them."""
        before = self.states[self.revision]
        now = dict(before)
        main = self.revision + 1
        events = []
        for key in deletions:
            events.append((DELETE, _pair(key, 0, main, 0, b"", 0), now.pop(key)))
        for key, value, lease in puts:
            old = now.get(key)
            create, version = (old.create_revision, old.version) if old else (main, 0)
            now[key] = _pair(key, create, main, version + 1, value, lease)
            events.append((PUT, now[key], old))
        if events:
            self.states[main] = now
            self.events[main] = events

    def _live(self, start, range_end, revision=None):
        state = self.states[revision or self.revision]
        return sorted(key for key in state if _inside(key, start, range_end))

    def _tell(self):
        for batch in self.machine.batches[self.told :]:
            for revision, changes in batch.changes:
                self.hub.notify(revision, changes)
        self.told = len(self.machine.batches)

    # Commands.

    @rule(key=KEYS, value=VALUES, lease=LEASES)
    def put(self, key, value, lease):
        lease = lease if lease in self.leases else 0
        old = self.states[self.revision].get(key)
        response = self.machine.put(key, value, lease=lease, prev_kv=True)
        self._write(puts=[(key, value, lease)])
        assert response.header.revision == self.revision
        assert (response.prev_kv if response.HasField("prev_kv") else None) == old
        self._tell()

    @rule(bounds=BOUNDS)
    def delete(self, bounds):
        keys = self._live(*bounds)
        old = [self.states[self.revision][key] for key in keys]
        response = self.machine.do(rpc.DeleteRangeRequest(key=bounds[0], range_end=bounds[1], prev_kv=True))
        self._write(deletions=keys)
        assert (response.deleted, list(response.prev_kvs)) == (len(keys), old)
        assert response.header.revision == self.revision
        self._tell()

    @rule(key=KEYS, other=KEYS, value=VALUES, wanted=st.integers(0, 3))
    def txn(self, key, other, value, wanted):
        """If ``key`` has been put so often: delete it and put another, else put it."""
        current = self.states[self.revision].get(key)
        version = current.version if current else 0
        compare = rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=wanted)
        success = [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))]
        if other != key:
            success.append(rpc.RequestOp(request_put=rpc.PutRequest(key=other, value=value)))
        failure = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))]
        response = self.machine.do(rpc.TxnRequest(compare=[compare], success=success, failure=failure))
        if version == wanted:
            puts = [(other, value, 0)] if other != key else []
            self._write(puts=puts, deletions=[key] if current else [])
        else:
            self._write(puts=[(key, value, 0)])
        assert (response.succeeded, response.header.revision) == (version == wanted, self.revision)
        self._tell()

    @rule(lease=st.sampled_from([1, 2]))
    def grant(self, lease):
        if lease not in self.leases:
            self.machine.do(rpc.LeaseGrantRequest(ID=lease, TTL=60))
            self.leases.add(lease)

    @rule(lease=st.sampled_from([1, 2]))
    def expire(self, lease):
        self.machine.expire(lease)
        self._write(deletions=sorted(k for k, p in self.states[self.revision].items() if p.lease == lease))
        self.leases.discard(lease)
        self._tell()

    @rule(back=st.integers(0, 6))
    def compact(self, back):
        revision = self.revision - back
        if revision > max(self.compacted, 0):
            self.machine.compact(revision, finish=False)
            self.compacted = revision

    @rule(limit=st.integers(1, 4))
    def delete_compacted(self, limit):
        self.machine.applier.store.compact_step(limit)

    @rule()
    def restart(self):
        """Also what an installed snapshot looks like to the hub."""
        self.machine.reopen()
        self.hub.reset(self.machine.applier.store)

    # Watchers.

    @rule(target=watchers, bounds=BOUNDS, back=st.integers(-3, 10), filtered=st.sampled_from(["", "p", "d"]))
    def watch(self, bounds, back, filtered):
        if bounds == (b"c", b"a"):
            bounds = (b"c", b"")
        start = max(self.revision - back, 0)
        spec = WatchSpec(*bounds, start, True, filtered == "p", filtered == "d")
        sink = _Sink()
        watcher = self.hub.create(spec, sink)
        pair = (watcher, sink, start or self.revision + 1)
        self.pairs.append(pair)
        return pair

    @rule(pair=watchers, room=st.integers(1, 5))
    def drain(self, pair, room):
        pair[1].room = room

    @rule(slices=st.integers(1, 3))
    def catch_up(self, slices):
        self.hub.catch_up(slices)

    @rule(pair=consumes(watchers))
    def cancel(self, pair):
        self._finish(pair)
        self.hub.cancel(pair[0])
        self.pairs.remove(pair)

    def _finish(self, pair):
        """With room for everything a watcher has either all events or was told of a compaction."""
        watcher, sink, _ = pair
        sink.room = 10**6
        while self.hub.catch_up(2):
            pass
        if sink.ended_at is None:
            self._check_stream(pair, self.revision)
            if watcher.spec.start_revision <= self.revision:
                assert self.hub.progress([watcher]) == self.revision

    @rule(pair=watchers)
    def check_prefix(self, pair):
        """At any time a stream is a beginning of the history."""
        watcher, sink, _ = pair
        reached = watcher.next_revision - 1 if watcher.state != 1 else self.hub.revision
        if sink.events:
            reached = max(e.kv.mod_revision for e in sink.events)
        elif watcher.state != 1:
            return
        self._check_stream(pair, reached)

    def _check_stream(self, pair, upto):
        watcher, sink, first = pair
        spec = watcher.spec
        expected = [
            (kind, pair_, previous)
            for revision in range(first, upto + 1)
            for kind, pair_, previous in self.events.get(revision, ())
            if _inside(pair_.key, spec.key, spec.range_end)
            and not (spec.no_put if kind == PUT else spec.no_delete)
        ]
        seen = [(event.type, event.kv) for event in sink.events]
        assert seen == [(kind, pair_) for kind, pair_, _ in expected]
        for event, (_, pair_, previous) in zip(sink.events, expected, strict=True):
            if event.HasField("prev_kv"):
                assert event.prev_kv == previous
            else:
                assert previous is None or pair_.mod_revision <= self.compacted

    # Reads.

    @rule(bounds=BOUNDS, back=st.integers(0, 12), limit=st.integers(0, 3))
    def read(self, bounds, back, limit):
        revision = max(self.revision - back, self.compacted, 1)
        request = rpc.RangeRequest(key=bounds[0], range_end=bounds[1], revision=revision, limit=limit)
        response = execute_range(self.machine.applier.store, request)
        keys = self._live(*bounds, revision)
        pairs = [self.states[revision][key] for key in keys]
        assert list(response.kvs) == pairs[: limit or None]
        assert (response.count, response.more) == (len(keys), 0 < limit < len(keys))
        assert response.header.revision == self.revision

    @invariant()
    def the_current_state_is_that_of_the_history(self):
        store = self.machine.applier.store
        assert store.current_revision == self.revision
        response = execute_range(store, rpc.RangeRequest(key=b"\0", range_end=b"\0"))
        current = self.states[self.revision]
        assert list(response.kvs) == [current[key] for key in sorted(current)]
        for lease in self.leases:
            attached = {key for key, pair in current.items() if pair.lease == lease}
            assert self.machine.applier.lessor.get(lease).keys == attached

    def teardown(self):
        """Every watcher has its stream, and any other member has the same records and hash."""
        for pair in self.pairs:
            self._finish(pair)
        other = StateMachine()
        other.feed(*self.machine.log)
        for machine in (self.machine, other):
            while machine.applier.store.compact_step(100):
                pass
        assert other.hash() == self.machine.hash()
        assert list(other.revisions().items()) == list(self.machine.revisions().items())


def _pair(key, create, mod, version, value, lease):
    return kv.KeyValue(
        key=key, create_revision=create, mod_revision=mod, version=version, value=value, lease=lease
    )


Model.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestTheStateMachineIsTheNaiveOne = Model.TestCase
