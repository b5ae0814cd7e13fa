"""Maintenance of single members: status, snapshots, hashes, alarms, leadership."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Literal

from grpc import aio
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode

from kvclient import methods
from kvclient.connection import Connections, error_from_rpc
from kvclient.errors import KvClientError, NotLeaderError, SnapshotDamagedError
from kvclient.tokens import token_metadata

__all__ = ["DowngradeAction", "MaintenanceCalls", "MovedLeadership", "SnapshotChunk"]

DowngradeAction = Literal["validate", "enable", "cancel"]

_DOWNGRADES: Final[dict[str, rpc_pb2.DowngradeRequest.DowngradeAction.ValueType]] = {
    "validate": rpc_pb2.DowngradeRequest.VALIDATE,
    "enable": rpc_pb2.DowngradeRequest.ENABLE,
    "cancel": rpc_pb2.DowngradeRequest.CANCEL,
}

_DIGEST_BYTES: Final = 32

# A snapshot of any size may take as long as it likes, but not stand still for this long.
_STALL_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of a snapshot, in order."""

    data: bytes
    remaining_bytes: int
    """What the server still has to send, by its own estimate."""
    is_digest: bool
    """The last chunk: the SHA-256 of all before it, already checked.  Snapshot files end in it."""
    endpoint: str
    version: str


@dataclass(frozen=True, slots=True)
class MovedLeadership:
    """A change of leader that was carried out."""

    from_id: int
    response: rpc_pb2.MoveLeaderResponse


class MaintenanceCalls:
    """Calls of the Maintenance service; reached as ``client.maintenance``.

    Where an endpoint may be named, it may be any member's, also one that the client was
    not given; without one, any of the client's endpoints answers.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def status(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> rpc_pb2.StatusResponse:
        """What the member says of itself; answered without a quorum."""
        return await self._connections.unary(
            methods.STATUS, rpc_pb2.StatusRequest(), timeout_s=timeout_s, endpoint=endpoint
        )

    async def hash_kv(
        self, endpoint: str | None = None, *, revision: int = 0, timeout_s: float | None = None
    ) -> rpc_pb2.HashKVResponse:
        """Hash of the member's history up to ``revision`` (0 = all).

        Equal ``hash_revision`` and ``compact_revision`` on two members must mean equal hashes.
        """
        request = rpc_pb2.HashKVRequest(revision=revision)
        return await self._connections.unary(methods.HASH_KV, request, timeout_s=timeout_s, endpoint=endpoint)

    async def alarms(self, *, timeout_s: float | None = None) -> rpc_pb2.AlarmResponse:
        """The alarms that are raised."""
        return await self._connections.unary(
            methods.ALARM, rpc_pb2.AlarmRequest(), timeout_s=timeout_s, is_read=True
        )

    async def disarm(
        self, alarm: rpc_pb2.AlarmMember, *, timeout_s: float | None = None
    ) -> rpc_pb2.AlarmResponse:
        """Lower one alarm, as `alarms` listed it."""
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
        )
        return await self._connections.unary(methods.ALARM, request, timeout_s=timeout_s)

    async def defragment(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> rpc_pb2.DefragmentResponse:
        """Give space of deleted records back to the file system; harmless to repeat."""
        return await self._connections.unary(
            methods.DEFRAGMENT, rpc_pb2.DefragmentRequest(), timeout_s=timeout_s, endpoint=endpoint
        )

    async def move_leader(self, target_id: int, *, timeout_s: float | None = None) -> MovedLeadership:
        """Hand leadership to the voter ``target_id``.

        Only the leader can do it, so it is looked up first, among the client's endpoints and
        then among the members' own client URLs.

        Raises:
            NotLeaderError: The leader can't be reached.
        """
        leader, leader_id = await self._leader()
        request = rpc_pb2.MoveLeaderRequest(targetID=target_id)
        response = await self._connections.unary(
            methods.MOVE_LEADER, request, timeout_s=timeout_s, endpoint=leader
        )
        return MovedLeadership(leader_id, response)

    async def snapshot(
        self, endpoint: str | None = None, *, stall_timeout_s: float = _STALL_TIMEOUT_S
    ) -> AsyncGenerator[SnapshotChunk, None]:
        """A consistent copy of the whole store, as a stream of bytes.

        What was yielded is worth keeping only if the iteration ends without an error: the
        checksum comes last.

        Raises:
            SnapshotDamagedError: The checksum is wrong, or the stream ended before it.
            KvClientError: The member failed, or sent nothing for ``stall_timeout_s``.
        """
        digest = hashlib.sha256()
        async with self._connections.channel(endpoint) as (channel, text):
            method = methods.SNAPSHOT
            call: aio.UnaryStreamCall[rpc_pb2.SnapshotRequest, rpc_pb2.SnapshotResponse]
            call = channel.unary_stream(method.path, method.serialize, method.deserialize)(
                rpc_pb2.SnapshotRequest(),
                metadata=aio.Metadata(*token_metadata(await self._snapshot_token(endpoint))),
            )
            try:
                # The last message is the checksum, and only its being last tells it from data.
                held = await _next_blob(call, text, stall_timeout_s)
                while held is not None:
                    following = await _next_blob(call, text, stall_timeout_s)
                    if following is None:
                        break
                    digest.update(held.blob)
                    yield SnapshotChunk(held.blob, held.remaining_bytes, False, text, held.version)
                    held = following
            finally:
                call.cancel()
            if held is None or len(held.blob) != _DIGEST_BYTES:
                raise SnapshotDamagedError(
                    "the snapshot ended before its checksum", code=StatusCode.DATA_LOSS, endpoint=text
                )
            if held.blob != digest.digest():
                raise SnapshotDamagedError(
                    f"the snapshot's SHA-256 is {digest.hexdigest()}, the server sent {held.blob.hex()}",
                    code=StatusCode.DATA_LOSS,
                    endpoint=text,
                )
            yield SnapshotChunk(held.blob, 0, True, text, held.version)

    async def downgrade(self, action: DowngradeAction, version: str = "") -> rpc_pb2.DowngradeResponse:
        """Check whether the cluster could go back to ``version``, begin it, or call it off."""
        request = rpc_pb2.DowngradeRequest(action=_DOWNGRADES[action], version=version)
        return await self._connections.unary(methods.DOWNGRADE, request)

    # -- private ---------------------------------------------------------------

    async def _snapshot_token(self, endpoint: str | None) -> str:
        """A token that the servers take: in the middle of a snapshot it would be late to fetch another."""
        token = await self._connections.tokens.current()
        if token:
            await self.status(endpoint)  # fetches another token if this one is outdated
            token = await self._connections.tokens.current()
        return token

    async def _leader(self) -> tuple[str, int]:
        """The leader's endpoint and id."""
        tried: dict[str, None] = {}
        for endpoint in self._connections.endpoints:
            tried[endpoint] = None
            leader_id = await self._id_if_leader(endpoint)
            if leader_id:
                return endpoint, leader_id
        response = await self._connections.unary(
            methods.MEMBER_LIST, rpc_pb2.MemberListRequest(linearizable=False)
        )
        for member in response.members:
            for url in member.clientURLs:
                leader_id = 0 if url in tried else await self._id_if_leader(url)
                if leader_id:
                    return url, leader_id
        raise NotLeaderError(
            f"no leader among the endpoints {', '.join(tried)} and the members' client URLs",
            code=StatusCode.FAILED_PRECONDITION,
        )

    async def _id_if_leader(self, endpoint: str) -> int:
        try:
            status = await self.status(endpoint)
        except KvClientError:
            return 0
        return status.leader if status.leader == status.header.member_id else 0


async def _next_blob(
    call: aio.UnaryStreamCall[rpc_pb2.SnapshotRequest, rpc_pb2.SnapshotResponse],
    endpoint: str,
    stall_timeout_s: float,
) -> rpc_pb2.SnapshotResponse | None:
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await call.read()
    except TimeoutError:
        raise KvClientError(
            f"the snapshot stood still for {stall_timeout_s:g} s",
            code=StatusCode.DEADLINE_EXCEEDED,
            endpoint=endpoint,
        ) from None
    except aio.AioRpcError as error:
        raise error_from_rpc(error, endpoint) from None
    return message if isinstance(message, rpc_pb2.SnapshotResponse) else None
