"""What the services need of a member, and nothing more.

``kvnode.server`` has the real one; the tests have one without consensus.  All calls are made in the
event loop's thread, and all callbacks come back there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kvnode.apply.applier import Applier
    from kvnode.apply.commands import CommandKind
    from kvnode.apply.membership import MemberRecord
    from kvnode.auth.caller import Caller
    from kvnode.mvcc.watch import WatchHub
    from kvnode.pb.rpc_pb2 import LeaseTimeToLiveResponse
    from kvnode.server.config import NodeConfig
    from kvnode.server.stats import MemberStats
    from kvnode.server.tokens import Tokens
    from kvnode.status import KvError

__all__ = ["MemberPort"]


class MemberPort(Protocol):
    """One member of the cluster."""

    @property
    def config(self) -> NodeConfig: ...

    @property
    def member_id(self) -> int: ...

    @property
    def cluster_id(self) -> int: ...

    @property
    def leader_id(self) -> int:
        """0: none known."""
        ...

    @property
    def term(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def is_learner(self) -> bool: ...

    @property
    def is_published(self) -> bool:
        """Whether it has joined: the cluster knows its name and client URLs."""
        ...

    @property
    def applier(self) -> Applier: ...

    @property
    def hub(self) -> WatchHub: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def stats(self) -> MemberStats: ...

    @property
    def db_size_bytes(self) -> int: ...

    @property
    def db_size_in_use_bytes(self) -> int: ...

    @property
    def disk_stalled_s(self) -> float:
        """How long a write has been under way that ought to be done; 0: the disk answers."""
        ...

    @property
    def quota_bytes(self) -> int | None:
        """None: no quota."""
        ...

    def propose(
        self,
        kind: CommandKind,
        payload: bytes,
        done: Callable[[Message | KvError], None],
        caller: Caller | None = None,
    ) -> None:
        """Put a command through the log; never raises.

        ``done`` is called exactly once: with the response (``header.revision`` set, the rest of the
        header empty) once applied here, or with the error, the request timeout among them.

        With ``caller`` (from ``Gate.caller``) the command is refused, when it is applied, if the caller
        may not do it then.  None is for what members do by themselves, and while auth is off.
        """
        ...

    def linearizable(self, done: Callable[[KvError | None], None]) -> None:
        """Call ``done(None)`` once local state holds all that was committed before this call."""
        ...

    async def proposed(self, kind: CommandKind, payload: bytes, caller: Caller | None = None) -> Message:
        """``propose`` for code that can wait; raises ``KvError``."""
        ...

    async def confirm_linearizable(self) -> None:
        """``linearizable`` for code that can wait; raises ``KvError``."""
        ...

    async def add_member(self, peer_urls: Sequence[str], is_learner: bool) -> MemberRecord: ...

    async def remove_member(self, member_id: int) -> None: ...

    async def update_member(self, member_id: int, peer_urls: Sequence[str]) -> None: ...

    async def promote_member(self, member_id: int) -> None: ...

    async def move_leader(self, target_id: int) -> None:
        """Raises ``KvError``: not leader, bad leader transferee, timed out."""
        ...

    def lease_renew(self, lease_id: int, done: Callable[[int | KvError], object]) -> None:
        """Begin to renew; gives the new TTL in seconds, 0: the lease is gone.  Forwarded to the leader.

        Renewals begun in one turn of the event loop travel together."""
        ...

    async def lease_time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        """TTL -1: no such lease.  The header is left to the caller.  Forwarded to the leader."""
        ...

    def snapshot_stream(self) -> AsyncIterator[tuple[bytes, int]]:
        """Chunks of the state's snapshot stream, each with the bytes that remain after it."""
        ...

    async def defragment(self) -> None: ...

    async def hash_state(self) -> int:
        """Return one number for all that this member stores."""
        ...

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """Return (hash, compact revision, hashed revision); revision 0: the current one."""
        ...

    def on_leader_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` whenever ``leader_id`` changes; returns the function that ends it."""
        ...
