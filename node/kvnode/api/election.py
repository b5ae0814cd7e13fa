"""The Election service: a queue under a name, whose head leads and proclaims values."""

from __future__ import annotations

from collections.abc import Sequence

from kvnode.api.catch_up import CatchUp
from kvnode.api.gate import Gate
from kvnode.api.key_changes import KeyChanges
from kvnode.api.long_calls import LongCalls
from kvnode.api.port import Call, Method, RpcError, StreamCall, StreamMethod, UnaryMethod
from kvnode.api.recipe import Place, Recipe, is_created_at
from kvnode.api.streams import Streams, parse
from kvnode.mvcc.watch import WatchSpec
from kvnode.pb.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from kvnode.pb.kv_pb2 import KeyValue
from kvnode.pb.rpc_pb2 import PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from kvnode.status import StatusCode
from kvnode.storage.keyspace import prefix_end

__all__ = ["ElectionService"]


class ElectionService:
    """v3electionpb.Election."""

    def __init__(self, gate: Gate, streams: Streams, long_calls: LongCalls, recipe: Recipe) -> None:
        self._gate = gate
        self._streams = streams
        self._long_calls = long_calls
        self._recipe = recipe
        self._catch_up = CatchUp(gate.member)

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        long = self._long_calls.method
        return (
            UnaryMethod("/v3electionpb.Election/Campaign", long(CampaignRequest, self.campaign)),
            UnaryMethod("/v3electionpb.Election/Proclaim", long(ProclaimRequest, self.proclaim)),
            UnaryMethod("/v3electionpb.Election/Leader", long(LeaderRequest, self.leader)),
            StreamMethod(
                "/v3electionpb.Election/Observe", self._streams.guarded(self.observe), "server_stream"
            ),
            UnaryMethod("/v3electionpb.Election/Resign", long(ResignRequest, self.resign)),
        )

    async def campaign(self, request: CampaignRequest, call: Call) -> CampaignResponse:
        """Wait to become the leader; what it returns is how the leader names itself from then on."""
        lease_id = await self._recipe.lease(request.lease, call)
        place = await self._recipe.enqueue(request.name + b"/", lease_id, request.value, call)
        leader = LeaderKey(name=request.name, key=place.key, rev=place.create_revision, lease=lease_id)
        if not place.is_new and _value_before(place) != request.value:
            try:
                await self._proclaim(leader, request.value, call)
            except RpcError:
                self._recipe.give_up(place)
                raise
        if not await self._recipe.wait(place, call):
            raise _not_leader()
        response = CampaignResponse(leader=leader)
        # Also of one that has waited: the revision at which it began to campaign.
        response.header.revision = place.response.header.revision
        self._gate.fill(response.header)
        return response

    async def proclaim(self, request: ProclaimRequest, call: Call) -> ProclaimResponse:
        """Change the leader's value."""
        if not request.HasField("leader"):
            raise _missing_leader()
        leader = LeaderKey()
        leader.CopyFrom(request.leader)
        leader.lease = await self._recipe.lease(leader.lease, call)
        done = await self._proclaim(leader, request.value, call)
        response = ProclaimResponse()
        response.header.revision = done.header.revision
        self._gate.fill(response.header)
        return response

    async def leader(self, request: LeaderRequest, call: Call) -> LeaderResponse:
        """Tell who leads."""
        found = await self._first(request.name + b"/", call)
        if not found.kvs:
            raise RpcError(StatusCode.UNKNOWN, "election: no leader")
        return self._leader(found.kvs[0], found.header.revision)

    async def resign(self, request: ResignRequest, call: Call) -> ResignResponse:
        """Give leadership up; without effect for one that does not lead any more."""
        if not request.HasField("leader"):
            raise _missing_leader()
        done = await self._recipe.leave(request.leader.key, request.leader.rev, call)
        response = ResignResponse()
        response.header.revision = done.header.revision
        self._gate.fill(response.header)
        return response

    async def observe(self, call: StreamCall) -> None:
        """Tell every value that a leader proclaims, and every leader that stays long enough to be seen."""
        async for payload in call:
            request = parse(LeaderRequest, payload)
            prefix = request.name + b"/"
            while True:
                leader, revision = await self._next_leader(prefix, call)
                await call.write(self._leader(leader, revision).SerializeToString())
                await self._tell_values(leader.key, revision, call)

    async def _next_leader(self, prefix: bytes, call: StreamCall) -> tuple[KeyValue, int]:
        """Return the leader, waited for, and a revision at which it leads."""
        while True:
            found = await self._first(prefix, call)
            if found.kvs:
                return found.kvs[0], found.header.revision
            spec = WatchSpec(
                prefix,
                prefix_end(prefix) or b"\0",
                start_revision=found.header.revision + 1,
                no_delete=True,
            )
            with KeyChanges(self._gate.member, self._catch_up, spec) as changes:
                for event in await changes.next():
                    return KeyValue.FromString(event.record), event.mod_revision

    async def _tell_values(self, key: bytes, revision: int, call: StreamCall) -> None:
        """Tell what is put under the leader's key after ``revision``, until it is deleted."""
        spec = WatchSpec(key, start_revision=revision + 1)
        with KeyChanges(self._gate.member, self._catch_up, spec) as changes:
            while events := await changes.next():
                for event in events:
                    if event.is_deletion:
                        return
                    answer = self._leader(KeyValue.FromString(event.record), event.mod_revision)
                    await call.write(answer.SerializeToString())

    async def _first(self, prefix: bytes, call: Call) -> RangeResponse:
        request = RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix) or b"\0",
            limit=1,
            sort_target=RangeRequest.CREATE,
            sort_order=RangeRequest.ASCEND,
        )
        return await self._recipe.read(request, call)

    async def _proclaim(self, leader: LeaderKey, value: bytes, call: Call) -> TxnResponse:
        put = RequestOp(request_put=PutRequest(key=leader.key, value=value, lease=leader.lease))
        done = await self._recipe.txn(
            TxnRequest(compare=[is_created_at(leader.key, leader.rev)], success=[put]), call
        )
        if not done.succeeded:
            raise _not_leader()
        return done

    def _leader(self, pair: KeyValue, revision: int) -> LeaderResponse:
        response = LeaderResponse(kv=pair)
        response.header.revision = revision
        self._gate.fill(response.header)
        return response


def _value_before(place: Place) -> bytes:
    value: bytes = place.response.responses[0].response_range.kvs[0].value
    return value


def _not_leader() -> RpcError:
    return RpcError(StatusCode.UNKNOWN, "election: not leader")


def _missing_leader() -> RpcError:
    return RpcError(StatusCode.UNKNOWN, '"leader" field must be provided')
