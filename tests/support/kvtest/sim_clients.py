"""Clients of a simulated cluster: what they ask, what they may rely on, and what they remember of it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import Message
from kvnode.apply.commands import CommandKind, encode_lease_ids
from kvnode.apply.range_read import execute_range
from kvnode.auth.records import ROOT
from kvnode.lease.errors import LeaseExistsError
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.ready import Role
from kvnode.server.errors import (
    LeaderFailureTimeoutError,
    NotLeaderError,
    RequestTimeoutError,
    StoppedError,
)
from kvnode.server.replica import Renewal
from kvnode.status import KvError
from kvtest.raft_invariants import InvariantBrokenError
from kvtest.sim_linear import ClientHistory, Op, linearization
from kvtest.sim_member import Process
from kvtest.sim_users import SimUsers
from kvtest.sim_watches import WatchClient

if TYPE_CHECKING:
    from kvtest.sim_world import SimWorld

__all__ = ["ALL_KEYS", "KEYS", "SimClients"]

#: Keys that only clients change.
KEYS = [b"k%d" % number for number in range(8)]
#: Keys that may hang on a lease, and vanish with it.
LEASED_KEYS = [b"l%d" % number for number in range(3)]
ALL_KEYS = KEYS + LEASED_KEYS
#: Errors after which nobody knows whether the write took effect.
UNKNOWN = (RequestTimeoutError, LeaderFailureTimeoutError, StoppedError)


class _Part(NamedTuple):
    """What a write does to one key, if it does what its answer says."""

    key: bytes
    op: Op
    #: What it writes there, if it is a put.
    value: bytes
    #: In a transaction: the branch that it is part of; a swap is decided by both.
    branch: bool | None = None


class SimClients:
    """All clients of one run."""

    def __init__(self, world: "SimWorld") -> None:
        self._world = world
        self._serial = 0
        self.calls = ClientHistory()
        #: Lease -> until when its client was promised that it lives.
        self.promises: dict[int, float] = {}
        self.users = SimUsers(world.chance) if world.plan.user_changes else None
        self.watches = [
            WatchClient(number, world.history, world.chance, world.note)
            for number in range(world.plan.watchers)
        ]

    # --- writes

    def write(self) -> None:
        """Write something, or several things at once, through some member."""
        world = self._world
        process = world.somebody()
        if process is None:
            return
        for _ in range(world.chance.choice([1, 1, 1, 5])):
            self._one_write(process)
        world.wake(process)

    def _one_write(self, process: Process) -> None:
        rng = self._world.chance
        choice = rng.random()
        key = rng.choice(KEYS)
        if choice < 0.5:
            value = self._value()
            self._write(
                process, CommandKind.PUT, rpc.PutRequest(key=key, value=value), [self._put(key, value)]
            )
        elif choice < 0.57:
            key, value, lease = rng.choice(LEASED_KEYS), self._value(), self._some_lease(process)
            put = rpc.PutRequest(key=key, value=value, lease=lease)
            self._write(process, CommandKind.PUT, put, [self._put(key, value)])
        elif choice < 0.78:
            self._swap(process, key)
        elif choice < 0.83:
            self._put_both(process, rng.sample(KEYS, 2))
        elif choice < 0.9:
            self._delete(process, key)
        elif choice < 0.96:
            self._serial += 1
            grant = rpc.LeaseGrantRequest(ID=self._serial, TTL=rng.choice([1, 2, 4, 8, 60]))
            self._write(process, CommandKind.LEASE_GRANT, grant, [])
        else:
            revision = max(1, process.store.current_revision - rng.choice([0, 10, 50]))
            self._write(process, CommandKind.COMPACT, rpc.CompactionRequest(revision=revision), [])

    def _value(self) -> bytes:
        self._serial += 1
        return b"v%d" % self._serial + b"." * self._world.chance.choice([0, 0, 0, 300])

    def _put(self, key: bytes, value: bytes, branch: bool | None = None) -> _Part:
        return _Part(key, self.calls.begin(key, "write", value), value, branch)

    def _delete(self, process: Process, key: bytes) -> None:
        """Delete a key, or a few that follow each other."""
        place = KEYS.index(key)
        keys = KEYS[place : place + self._world.chance.choice([1, 1, 1, 3])]
        range_end = b"" if len(keys) == 1 else keys[-1] + b"\0"
        parts = [_Part(each, self.calls.begin(each, "write"), b"") for each in keys]
        request = rpc.DeleteRangeRequest(key=key, range_end=range_end)
        self._write(process, CommandKind.DELETE_RANGE, request, parts)

    def _swap(self, process: Process, key: bytes) -> None:
        """Compare and swap: which branch was taken shows in what was written."""
        versions = self._world.history.versions.get(key)
        revision, expected = versions[-1] if versions else (0, None)
        other = self._world.chance.choice([each for each in KEYS if each != key])
        if expected is not None and self._world.chance.random() < 0.3:
            compare = rpc.Compare(key=key, target=rpc.Compare.VALUE, value=expected)
        else:
            # A key that is not there has 0.
            compare = rpc.Compare(
                key=key, target=rpc.Compare.MOD, mod_revision=0 if expected is None else revision
            )
        won, lost = self._value(), self._value()
        parts = [
            _Part(key, self.calls.begin(key, "swap", won, expected), won, True),
            self._put(other, lost, False),
        ]
        request = rpc.TxnRequest(compare=[compare], success=_puts(parts[:1]), failure=_puts(parts[1:]))
        self._write(process, CommandKind.TXN, request, parts)

    def _put_both(self, process: Process, keys: Sequence[bytes]) -> None:
        """A transaction of two puts."""
        parts = [self._put(key, self._value(), True) for key in keys]
        self._write(process, CommandKind.TXN, rpc.TxnRequest(success=_puts(parts)), parts)

    def _some_lease(self, process: Process) -> int:
        leases = process.applier.lessor.leases()
        return self._world.chance.choice(leases) if leases else 0

    def _write(self, process: Process, kind: CommandKind, request: Message, parts: list[_Part]) -> None:
        world = self._world
        answers = 0
        asked_s, jumped_s, needed = world.now_s, world.jumped_s, world.history.acknowledged
        user = self.users.somebody() if self.users is not None else ""
        succeeded = self.users.asked(user) if self.users is not None else None
        value = parts[0].value if parts else b""

        def done(result: object) -> None:
            nonlocal answers
            answers += 1
            if answers > 1:
                raise InvariantBrokenError(f"{kind.name} of {value!r} was answered twice: {result}")
            if isinstance(result, UNKNOWN):
                world.note("unknown", process.member_id, kind.name, value[:12], type(result).__name__)
            elif isinstance(result, KvError):
                self._refused(result, kind, parts)
            else:
                revision = result.header.revision  # type: ignore[attr-defined]
                if revision < needed:
                    raise InvariantBrokenError(
                        f"{kind.name} answered at {revision}, {needed} was known before"
                    )
                # Anybody may have a lease.
                if succeeded is not None and kind is not CommandKind.LEASE_GRANT:
                    succeeded()
                branch = result.succeeded if isinstance(result, rpc.TxnResponse) else None
                self._written(parts, branch, revision, needed)
                if isinstance(result, rpc.LeaseGrantResponse):
                    self._promise(result.ID, asked_s, result.TTL, jumped_s)
                world.note("written", process.member_id, kind.name, value[:12], revision)
                world.history.saw(revision)

        self.propose(process, user, kind, request.SerializeToString(), done)

    def _written(self, parts: list[_Part], branch: bool | None, revision: int, needed: int) -> None:
        history = self._world.history
        for key, op, value, part_of in parts:
            if op.kind == "swap":
                op.swapped = branch
            elif part_of is not branch:
                self.calls.drop(key, op)
                history.refused_values.add(value)
                continue
            op.hint = revision
            self.calls.end(op)
            if part_of is not branch:
                history.refused_values.add(value)
            elif value:
                history.written(value, revision, needed)

    def _refused(self, error: KvError, kind: CommandKind, parts: list[_Part]) -> None:
        if isinstance(error, LeaseExistsError):
            raise InvariantBrokenError("applied twice: a lease of a fresh ID exists already")
        history = self._world.history
        self._world.note("refused", kind.name, type(error).__name__)
        for key, op, value, _ in parts:
            self.calls.drop(key, op)
            if value:
                if value in history.revisions:
                    raise InvariantBrokenError(f"{value!r} was refused and is written")
                history.refused_values.add(value)

    def propose(
        self, process: Process, user: str, kind: CommandKind, payload: bytes, done: Callable[[object], None]
    ) -> None:
        """Propose a command in a user's name, as far as the member knows that names matter."""
        if self.users is not None:
            kind, payload = self.users.command(user, process.applier.auth, kind, payload)
        self._world.guarded(process, lambda: process.proposals.add(kind, payload, done, process.now_s()))

    # --- reads

    def read(self) -> None:
        """Read something through some member."""
        process = self._world.somebody()
        if process is not None:
            self.read_on(process)

    def read_on(self, process: Process, answered: Callable[[KvError | None], None] | None = None) -> None:
        """Read a key, or all of them, linearizably."""
        world = self._world
        needed = world.history.acknowledged
        keys = [world.chance.choice(KEYS)] if world.chance.random() < 0.8 else KEYS
        ops = [self.calls.begin(key, "read") for key in keys]

        def done(error: KvError | None) -> None:
            if error is None:
                world.note("read", process.member_id, keys[0], needed)
                world.history.read(process.member_id, needed, process.applier, keys)
                for key, op in zip(keys, ops, strict=True):
                    response = execute_range(process.store, rpc.RangeRequest(key=key))
                    op.value = response.kvs[0].value if response.kvs else None
                    op.hint = process.store.current_revision
                    self.calls.end(op)
            else:
                world.note("read failed", process.member_id, type(error).__name__)
                for key, op in zip(keys, ops, strict=True):
                    self.calls.drop(key, op)
            if answered is not None:
                answered(error)

        def ask() -> None:
            process.reads.add(done, process.now_s())
            world.wake(process)

        world.guarded(process, ask)

    # --- leases

    def _promise(self, lease_id: int, asked_s: float, ttl_s: int, jumped_s: float) -> None:
        """A client was told that its lease lives for so long from when it asked.

        By the leader's clock, which may be fast, and may have been set forward meanwhile.
        """
        world = self._world
        until_s = asked_s + ttl_s / (1 + world.plan.drift) - (world.jumped_s - jumped_s)
        self.promises[lease_id] = max(self.promises.get(lease_id, 0.0), until_s)

    def clock_jumped(self, seconds: float) -> None:
        """Some member's clock was set forward: leases may be that much shorter."""
        for lease_id in self.promises:
            self.promises[lease_id] -= seconds

    def check_leases(self, process: Process) -> None:
        """No lease that a client was promised may be gone on a member that has seen it granted."""
        world, lessor = self._world, process.applier.lessor
        process.leases_seen.update(i for i in self.promises if i in lessor)
        for lease_id, until_s in list(self.promises.items()):
            if until_s < world.now_s:
                del self.promises[lease_id]
            elif lease_id not in lessor and lease_id in process.leases_seen:
                raise InvariantBrokenError(
                    f"lease {lease_id} is gone at {world.now_s}, promised until {until_s}"
                )

    def renew(self) -> None:
        """Keep a lease alive, as ``server.calls`` does it on the leader."""
        world = self._world
        leaders = [p for p in world.up() if p.node.role is Role.LEADER]
        if not leaders:
            return
        process = world.chance.choice(leaders)
        leases = process.applier.lessor.leases()
        if not leases:
            return
        # Rather a short one, or one that is about to end: those can run out too early before the run is over.
        some = world.chance.sample(leases, min(len(leases), 4))
        by_ttl = world.chance.random() < 0.5
        lease_id = min(some, key=lambda each: self._urgency(process, each, by_ttl=by_ttl))

        def renew() -> None:
            asked_s, jumped_s = world.now_s, world.jumped_s
            try:
                renewal = Renewal(process.replica, [lease_id], process.now_s())
            except NotLeaderError:
                return

            def done(error: KvError | None) -> None:
                try:
                    ttl_s = renewal.finish(process.now_s())[0] if error is None else 0
                except NotLeaderError:
                    return
                if ttl_s:
                    world.note("renewed", process.member_id, lease_id, ttl_s)
                    self._promise(lease_id, asked_s, ttl_s, jumped_s)

            def read(result: object = None) -> None:
                if not isinstance(result, KvError) and process.is_alive:
                    process.reads.add(done, process.now_s())
                    world.wake(process)

            if renewal.checkpointed:
                self._log_checkpoint(process, [(lease_id, 0)], read)
            else:
                read()

        world.guarded(process, renew)

    def _urgency(self, process: Process, lease_id: int, *, by_ttl: bool) -> float:
        lease = process.applier.lessor.get(lease_id)
        if lease is None:
            return 0.0
        return lease.ttl_s if by_ttl or lease.expiry_s is None else lease.expiry_s

    def expire_leases(self) -> None:
        """Revoke what has run out, as ``server.upkeep`` does it on the leader."""
        world = self._world
        for process in world.up():
            world.guarded(process, partial(self._expire, process))

    def _expire(self, process: Process) -> None:
        if process.node.role is not Role.LEADER:
            return
        expired = process.applier.lessor.expired(process.now_s(), 100)
        if expired:
            self._world.note("expire", process.member_id, expired)
            process.proposals.add(
                CommandKind.LEASE_REVOKE_MANY,
                encode_lease_ids(expired),
                _ignore,
                process.now_s(),
                only_term=process.node.term,
            )
            self._world.wake(process)

    def checkpoint_leases(self) -> None:
        """Log what is left of some leases, as a leader does now and then and before it hands over."""
        world = self._world
        for process in world.up():
            world.guarded(process, partial(self._checkpoint, process))

    def _checkpoint(self, process: Process) -> None:
        # All at one moment: what was left before a renewal must not be logged behind it.
        if process.node.role is not Role.LEADER:
            return
        left = process.applier.lessor.checkpoints(process.now_s())
        if left:
            # The shortest remainders matter soonest.
            left.sort(key=lambda each: each[1])
            rng = self._world.rng
            chosen = left[:10] if rng.random() < 0.5 else rng.sample(left, min(len(left), 10))
            self._log_checkpoint(process, chosen, _ignore)

    def _log_checkpoint(
        self, process: Process, checkpoints: list[tuple[int, int]], done: Callable[[object], None]
    ) -> None:
        """``Member.checkpoint_leases``."""
        lessor = process.applier.lessor
        lease_ids = [lease_id for lease_id, remaining_s in checkpoints if remaining_s]
        lessor.checkpoint_begun(lease_ids)
        self._world.note("checkpoint", process.member_id, checkpoints)
        request = rpc.LeaseCheckpointRequest()
        for lease_id, remaining_s in checkpoints:
            request.checkpoints.add(ID=lease_id, remaining_TTL=remaining_s)

        def applied(result: object) -> None:
            if not isinstance(result, KvError):
                lessor.checkpoint_applied(lease_ids)
            done(result)

        process.proposals.add(
            CommandKind.LEASE_CHECKPOINT,
            request.SerializeToString(),
            applied,
            process.now_s(),
            only_term=process.node.term,
        )
        self._world.wake(process)

    # --- watches

    def watch(self) -> None:
        """Let some client read what it was sent, move to another member, or ask how far it has come."""
        world = self._world
        if not self.watches:
            return
        client = world.chance.choice(self.watches)
        choice = world.chance.random()
        process = world.somebody()
        client.read(world.chance.choice([1, 2, 10]))
        if (not client.is_attached or choice < 0.1) and process is not None:
            if not world.is_frozen(process):
                client.attach(process)
        elif choice < 0.4:
            client.ask_progress()

    def catch_up(self) -> None:
        """Serve watchers that are behind, as ``api.catch_up`` does."""
        world = self._world
        for process in world.up():
            if process.hub.needs_catch_up:
                count = world.rng.choice([1, 3, 1000])
                world.guarded(process, partial(process.hub.catch_up, count))

    # --- administrators

    def change_users(self) -> None:
        """Let a user in or out, or turn auth on or off."""
        world = self._world
        process = world.somebody()
        if process is None or self.users is None:
            return
        change = self.users.change()

        def done(result: object) -> None:
            is_known = not isinstance(result, UNKNOWN)
            change.answered(is_known, not isinstance(result, KvError))
            world.note(
                "users changed" if is_known else "users unknown", change.kind.name, type(result).__name__
            )

        self.propose(process, ROOT, change.kind, change.request.SerializeToString(), done)
        world.wake(process)

    def change_alarm(self, *, is_over: bool = False) -> None:
        """Raise or clear the alarm that no member has room."""
        world = self._world
        process = world.somebody()
        if process is None:
            return
        action = rpc.AlarmRequest.ACTIVATE
        if is_over or world.chance.random() < 0.6:
            action = rpc.AlarmRequest.DEACTIVATE
        world.note("alarm", process.member_id, action)
        request = rpc.AlarmRequest(action=action, memberID=1, alarm=rpc.NOSPACE)
        self.propose(process, ROOT, CommandKind.ALARM, request.SerializeToString(), _ignore)
        world.wake(process)

    # --- the end

    def last_write(self, process: Process, done: Callable[[object], None]) -> None:
        """Write once more through a member that must be able to."""
        put = rpc.PutRequest(key=b"last", value=self._value()).SerializeToString()
        self.propose(process, ROOT, CommandKind.PUT, put, done)

    def finish_watches(self, members: Sequence[Process]) -> None:
        """Read all that is still to come, wherever each client stands."""
        process = members[0]
        for client in self.watches:
            if not client.is_attached or client.process not in members:
                client.attach(process)  # it was on a member that was removed
        for _ in range(10_000):
            for client in self.watches:
                client.read(100)
                if not client.is_attached:
                    client.attach(process)
            for each in self._world.up():
                each.hub.catch_up()
            if not any(client.queue or not client.is_synced for client in self.watches):
                break
        else:
            raise InvariantBrokenError("watches never come to an end")
        for client in self.watches:
            client.ask_progress()
            client.read(100)
            client.finish(process.store.current_revision)

    def check_linearizable(self) -> None:
        """Find an order of all calls on each key that explains every answer."""
        for key, ops in self.calls.ops.items():
            if key not in KEYS:
                continue
            for op in ops:
                if not op.is_known and op.value is not None:
                    op.hint = self._world.history.revisions.get(op.value, 0)
            try:
                found = linearization(ops)
            except TimeoutError:
                self._world.counts["undecided keys"] += 1
                continue
            if found is None:
                shown = "\n".join(f"    {op}" for op in sorted(ops, key=lambda op: op.called)[-60:])
                raise InvariantBrokenError(f"not linearizable: the calls on {key!r}, the last ones:\n{shown}")
            self._world.counts["calls checked"] += len(ops)


def _puts(parts: Sequence[_Part]) -> list[rpc.RequestOp]:
    return [rpc.RequestOp(request_put=rpc.PutRequest(key=part.key, value=part.value)) for part in parts]


def _ignore(result: object) -> None:
    del result
