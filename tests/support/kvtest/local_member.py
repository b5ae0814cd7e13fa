"""A member without consensus: the real state machine, applied at once, behind the services' face of it.

What the services are tested for is what they make of requests and answers; that a write is agreed on by
a quorum is tested elsewhere.  The clock is the event loop's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from kvnode.apply.applier import Applier
from kvnode.apply.commands import CommandKind, encode_as_user, encode_command, encode_lease_ids
from kvnode.apply.genesis import write_genesis
from kvnode.apply.membership import (
    MemberAttributes,
    MemberChange,
    MemberRecord,
    encode_member_attributes,
    encode_member_change,
)
from kvnode.auth.caller import Caller
from kvnode.mvcc.hashing import RevisionHash, StateHash
from kvnode.mvcc.watch import WatchHub
from kvnode.pb.rpc_pb2 import LeaseTimeToLiveResponse
from kvnode.raft.types import ConfChange, ConfChangeKind, Entry, EntryKind, MemberId, encode_conf_change
from kvnode.server.config import NodeConfig, parse_urls
from kvnode.server.errors import BadLeaderTransfereeError
from kvnode.server.stats import MemberStats
from kvnode.server.tokens import make_tokens
from kvnode.status import KvError
from kvnode.storage.engine import Engine
from kvnode.storage.memory import MemoryEngine

__all__ = ["CLUSTER_ID", "MEMBER_ID", "LocalMember", "local_config"]

CLUSTER_ID = 0xC1
MEMBER_ID = 0xA1
PEER_URL = "http://127.0.0.1:2380"
CLIENT_URL = "http://127.0.0.1:2379"


def local_config(**changes: Any) -> NodeConfig:
    """A configuration that needs no network; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "name": "m1",
        "data_dir": Path("/nonexistent"),
        "listen_peer_urls": parse_urls(PEER_URL),
        "listen_client_urls": parse_urls(CLIENT_URL),
        "initial_advertise_peer_urls": (PEER_URL,),
        "advertise_client_urls": (CLIENT_URL,),
        "initial_cluster": {"m1": (PEER_URL,)},
    }
    return NodeConfig(**(fields | changes))


class LocalMember:
    """Satisfies ``kvnode.api.member_port.MemberPort``; fields may be set to play other situations."""

    def __init__(self, config: NodeConfig | None = None, engine: Engine | None = None) -> None:
        self.config = config if config is not None else local_config()
        self.member_id = MEMBER_ID
        self.cluster_id = CLUSTER_ID
        self.leader_id = MEMBER_ID
        self.term = 2
        self.is_learner = False
        self.is_published = True
        self.stats = MemberStats()
        self.db_size_bytes = 4096
        self.db_size_in_use_bytes = 1024
        self.disk_stalled_s = 0.0
        self.quota_bytes = self.config.quota_backend_bytes
        #: Answers to come instead of what would happen, for propose and linearizable alike.
        self.failure: KvError | None = None
        #: While set, linearizable reads wait for ``release``.
        self.holds_reads = False
        self._held: list[Callable[[], None]] = []
        self._leader_callbacks: list[Callable[[], None]] = []
        self._engine = engine if engine is not None else MemoryEngine()
        record = MemberRecord(MemberId(MEMBER_ID), "m1", (PEER_URL,), (CLIENT_URL,), False)
        genesis = write_genesis(self._engine, CLUSTER_ID, [record])
        self.applied_index = genesis.index
        self.applier = Applier(self._engine, is_local=lambda request_id: True, member_id=MEMBER_ID)
        self.applier.lessor.promote(0.0, 0.0)
        self.hub = WatchHub(self.applier.store)
        self._loop = asyncio.get_running_loop()
        self.proposals = 0
        #: Adds to the loop's clock, for tokens that are to grow old.
        self.elapsed_s = 0.0
        self.tokens = make_tokens(self.config, lambda: self._loop.time() + self.elapsed_s)

    @property
    def commit_index(self) -> int:
        return self.applied_index

    @property
    def is_leader(self) -> bool:
        return self.leader_id == self.member_id

    # Writes and reads.

    def propose(
        self, kind: CommandKind, payload: bytes, done: Callable[[Any], None], caller: Caller | None = None
    ) -> None:
        self.proposals += 1
        if caller is not None:
            kind, payload = CommandKind.AS_USER, encode_as_user(caller, kind, payload)
        if self.failure is not None:
            done(self.failure)
        else:
            done(self.apply(EntryKind.NORMAL, encode_command(kind, 1, payload)))

    def linearizable(self, done: Callable[[KvError | None], None]) -> None:
        if self.holds_reads:
            self._held.append(lambda: done(self.failure))
        else:
            done(self.failure)

    def release(self) -> None:
        """Let the reads go that were held."""
        self.holds_reads = False
        held, self._held = self._held, []
        for go in held:
            go()

    async def proposed(self, kind: CommandKind, payload: bytes, caller: Caller | None = None) -> Message:
        results: list[Any] = []
        self.propose(kind, payload, results.append, caller)
        if isinstance(results[0], KvError):
            raise results[0]
        return results[0]  # type: ignore[no-any-return]

    async def confirm_linearizable(self) -> None:
        waiter: asyncio.Future[KvError | None] = self._loop.create_future()
        self.linearizable(waiter.set_result)
        error = await waiter
        if error is not None:
            raise error

    def apply(self, kind: EntryKind, data: bytes) -> Any:
        """Apply one entry and return its answer."""
        self.applied_index += 1
        batch = self.applier.apply([Entry(self.term, self.applied_index, kind, data)])
        self.tokens.apply(batch.auth_events)
        for revision, changes in batch.changes:
            self.hub.notify(revision, changes)
        while self.applier.store.is_compacting:
            self.applier.store.compact_step(1000)
        return batch.results[0][1]

    # Membership.

    async def add_member(self, peer_urls: Sequence[str], is_learner: bool) -> MemberRecord:
        member_id = MemberId(MEMBER_ID + len(self.applier.membership.members))
        kind = ConfChangeKind.ADD_LEARNER if is_learner else ConfChangeKind.ADD_VOTER
        self._change(encode_member_change(MemberChange(1, kind, member_id, tuple(peer_urls))))
        return self.applier.membership.members[member_id]

    async def remove_member(self, member_id: int) -> None:
        self._change(encode_member_change(MemberChange(1, ConfChangeKind.REMOVE, MemberId(member_id))))

    async def update_member(self, member_id: int, peer_urls: Sequence[str]) -> None:
        attributes = MemberAttributes(MemberId(member_id), peer_urls=tuple(peer_urls))
        await self.proposed(CommandKind.MEMBER_ATTRIBUTES, encode_member_attributes(attributes))

    async def promote_member(self, member_id: int) -> None:
        change = MemberChange(1, ConfChangeKind.ADD_VOTER, MemberId(member_id), is_promotion=True)
        self._change(encode_member_change(change))

    async def move_leader(self, target_id: int) -> None:
        target = self.applier.membership.get(target_id)
        if target is None or target.is_learner:
            raise BadLeaderTransfereeError
        self.set_leader(target_id)

    def set_leader(self, leader_id: int) -> None:
        """Change the known leader; 0: none."""
        self.leader_id = leader_id
        for callback in list(self._leader_callbacks):
            callback()

    def on_leader_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._leader_callbacks.append(callback)
        return lambda: self._leader_callbacks.remove(callback)

    def _change(self, change: ConfChange) -> None:
        result = self.apply(EntryKind.CONF_CHANGE, encode_conf_change(change))
        if isinstance(result, KvError):
            raise result

    # Leases.

    def lease_renew(self, lease_id: int, done: Callable[[int | KvError], object]) -> None:
        self._loop.call_soon(lambda: done(self.applier.lessor.renew(lease_id, self._loop.time())))

    async def lease_time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        life = self.applier.lessor.time_to_live(lease_id, self._loop.time())
        if life is None:
            return LeaseTimeToLiveResponse(ID=lease_id, TTL=-1)
        return LeaseTimeToLiveResponse(
            ID=lease_id,
            TTL=life.remaining_s,
            grantedTTL=life.granted_ttl_s,
            keys=life.keys if keys else (),
        )

    def expire_leases(self, now_s: float) -> None:
        """Revoke what has run out by ``now_s``, as the leader would."""
        expired = self.applier.lessor.expired(now_s, 1000)
        if expired:
            self.propose(CommandKind.LEASE_REVOKE_MANY, encode_lease_ids(expired), lambda result: None)

    # Maintenance.

    async def snapshot_stream(self) -> AsyncIterator[tuple[bytes, int]]:
        blob = bytes(range(256)) * 6
        for start in range(0, len(blob), 512):
            yield blob[start : start + 512], len(blob) - start - 512

    async def defragment(self) -> None:
        self._engine.compact_range(None, None)

    async def hash_state(self) -> int:
        hashing = StateHash(self._engine)
        while hashing.step(100):
            pass
        return hashing.value

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        hashed = RevisionHash(self.applier.store, revision)
        return hashed.finish(), hashed.compact_revision, hashed.revision
