"""The Maintenance service: looking at one member and looking after it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from kvnode.api.errors import WrongVersionFormatError
from kvnode.api.gate import Access, Gate
from kvnode.api.port import Method, RpcError, StreamCall, StreamMethod, UnaryMethod
from kvnode.api.streams import Streams, parse
from kvnode.api.version import ETCD_VERSION
from kvnode.apply.cluster_version import MinorVersion, encode_downgrade, parse_minor_version
from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import Caller
from kvnode.pb.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    DefragmentRequest,
    DefragmentResponse,
    DowngradeInfo,
    DowngradeRequest,
    DowngradeResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    SnapshotRequest,
    SnapshotResponse,
    StatusRequest,
    StatusResponse,
)
from kvnode.server.errors import NoLeaderError, NotLeaderError
from kvnode.status import StatusCode

__all__ = ["MaintenanceService"]


class MaintenanceService:
    """etcdserverpb.Maintenance."""

    def __init__(self, gate: Gate, streams: Streams) -> None:
        self._gate = gate
        self._member = gate.member
        self._streams = streams

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        unary = self._gate.coroutine
        return (
            UnaryMethod("/etcdserverpb.Maintenance/Alarm", self._gate.coroutine_as(AlarmRequest, self.alarm)),
            UnaryMethod(
                "/etcdserverpb.Maintenance/Status",
                unary(StatusRequest, self.status, access=Access.ANY_USER, serves_learner=True),
            ),
            UnaryMethod("/etcdserverpb.Maintenance/Defragment", unary(DefragmentRequest, self.defragment)),
            UnaryMethod("/etcdserverpb.Maintenance/Hash", unary(HashRequest, self.hash)),
            UnaryMethod("/etcdserverpb.Maintenance/HashKV", unary(HashKVRequest, self.hash_kv)),
            StreamMethod(
                "/etcdserverpb.Maintenance/Snapshot",
                self._streams.guarded(self.snapshot, serves_learner=True),
                "server_stream",
            ),
            UnaryMethod("/etcdserverpb.Maintenance/MoveLeader", unary(MoveLeaderRequest, self.move_leader)),
            UnaryMethod("/etcdserverpb.Maintenance/Downgrade", unary(DowngradeRequest, self.downgrade)),
        )

    async def alarm(self, request: AlarmRequest, caller: Caller | None) -> AlarmResponse:
        """List, raise or clear alarms; a listing is linearizable but needs no log entry.

        Every user may list; raising and clearing is root's, which is decided when it is applied.
        """
        if request.action == AlarmRequest.GET:
            await self._member.confirm_linearizable()
            response = AlarmResponse(alarms=self._alarms(request.alarm))
        else:
            result = await self._member.proposed(CommandKind.ALARM, request.SerializeToString(), caller)
            response = cast(AlarmResponse, result)
        self._gate.fill(response.header)
        return response

    async def status(self, request: StatusRequest) -> StatusResponse:
        """Tell how this member is, from local knowledge alone."""
        member = self._member
        quota_bytes = member.quota_bytes
        cluster_version = member.applier.cluster_version
        target = cluster_version.downgrade_target
        response = StatusResponse(
            version=ETCD_VERSION,
            dbSize=member.db_size_bytes,
            leader=member.leader_id,
            raftIndex=member.commit_index,
            raftTerm=member.term,
            raftAppliedIndex=member.applied_index,
            dbSizeInUse=member.db_size_in_use_bytes,
            isLearner=member.is_learner,
            storageVersion=str(cluster_version.version),
            # etcd says -1 for "no quota".
            dbSizeQuota=-1 if quota_bytes is None else quota_bytes,
            downgradeInfo=DowngradeInfo(
                enabled=target is not None, targetVersion="" if target is None else str(target)
            ),
        )
        if member.leader_id == 0:
            response.errors.append(NoLeaderError().message)
        for alarm in self._alarms(AlarmType.NONE):
            # Go's text form of the message, blank at the end included; tools split it.
            response.errors.append(f"memberID:{alarm.memberID} alarm:{AlarmType.Name(alarm.alarm)} ")
        self._gate.fill(response.header)
        return response

    async def defragment(self, request: DefragmentRequest) -> DefragmentResponse:
        """Give disk space back; reads and writes go on meanwhile.  The response has no header."""
        await self._member.defragment()
        return DefragmentResponse()

    async def hash(self, request: HashRequest) -> HashResponse:
        """Hash all that this member stores; etcd has it for tests, and so have we."""
        response = HashResponse(hash=await self._member.hash_state())
        self._gate.fill(response.header)
        return response

    async def hash_kv(self, request: HashKVRequest) -> HashKVResponse:
        """Hash the keys up to a revision; equal on members with the same compact revision."""
        kv_hash, compact_revision, hash_revision = await self._member.hash_kv(request.revision)
        response = HashKVResponse(
            hash=kv_hash, compact_revision=compact_revision, hash_revision=hash_revision
        )
        self._gate.fill(response.header)
        return response

    async def snapshot(self, call: StreamCall) -> None:
        """Stream the state, then the SHA-256 of all that was streamed.  No header in any part."""
        self._gate.admit(call, Access.ROOT)
        async for payload in call:
            parse(SnapshotRequest, payload)
            break
        digest = hashlib.sha256()
        version = str(self._member.applier.cluster_version.version)
        async for chunk, remaining_bytes in self._member.snapshot_stream():
            digest.update(chunk)
            part = SnapshotResponse(remaining_bytes=remaining_bytes, blob=chunk, version=version)
            await call.write(part.SerializeToString())
        last = SnapshotResponse(remaining_bytes=0, blob=digest.digest(), version=version)
        await call.write(last.SerializeToString())

    async def move_leader(self, request: MoveLeaderRequest) -> MoveLeaderResponse:
        """Hand leadership to another voter.  The response has no header."""
        if not self._member.is_leader:
            raise NotLeaderError
        await self._member.move_leader(request.targetID)
        return MoveLeaderResponse()

    async def downgrade(self, request: DowngradeRequest) -> DowngradeResponse:
        """Check, begin or end a downgrade of the cluster's version."""
        if request.action == DowngradeRequest.CANCEL:
            await self._cancel_downgrade()
        elif request.action in (DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE):
            target = await self._downgrade_target(request.version)
            if request.action == DowngradeRequest.ENABLE:
                await self._member.proposed(CommandKind.DOWNGRADE, encode_downgrade(target))
        else:
            raise RpcError(StatusCode.UNKNOWN, "etcdserver: unknown method")
        response = DowngradeResponse(version=self._member.applier.cluster_version.version.short)
        self._gate.fill(response.header)
        return response

    async def _downgrade_target(self, version: str) -> MinorVersion:
        target = parse_minor_version(version)
        if target is None:
            raise WrongVersionFormatError
        await self._member.confirm_linearizable()
        refused = self._member.applier.cluster_version.check_downgrade(target)
        if refused is not None:
            raise refused
        return target

    async def _cancel_downgrade(self) -> None:
        """End a downgrade; as in etcd, that there is none is no error."""
        await self._member.confirm_linearizable()
        if self._member.applier.cluster_version.downgrade_target is not None:
            await self._member.proposed(CommandKind.DOWNGRADE, encode_downgrade(None))

    def _alarms(self, kind: AlarmType.ValueType) -> list[AlarmMember]:
        return [
            AlarmMember(memberID=member_id, alarm=AlarmType.ValueType(alarm))
            for member_id, alarm in self._member.applier.alarms.raised(kind)
        ]
