"""What every service does around its own work: may this member answer, and with which header."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from kvnode.api.errors import LearnerNotSupportedError, NoLeaderError, malformed_request
from kvnode.api.port import Call, RpcError, UnaryCall, UnaryHandler
from kvnode.mvcc.records import varint
from kvnode.pb.rpc_pb2 import ResponseHeader
from kvnode.status import KvError

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["Gate"]

RequestT = TypeVar("RequestT", bound=Message)


class Gate:
    """The checks and headers that are common to all services of one member."""

    def __init__(self, member: MemberPort) -> None:
        self.member = member
        #: From the first signal to stop: probes say so, and no stream begins any more.
        self.is_stopping = False
        #: The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = ResponseHeader(
            cluster_id=member.cluster_id, member_id=member.member_id
        ).SerializeToString()
        #: The header made last and what it was made of: many answers share one.
        self._encoded = b""
        self._encoded_of = (0, 0)

    def refusal(self, call: Call, *, serves_learner: bool = False) -> KvError | None:
        """Return why this member can't answer the call, or None."""
        member = self.member
        if member.is_learner and not serves_learner:
            return LearnerNotSupportedError()
        # Asked first because it is almost never so: reading metadata costs more.
        if member.leader_id == 0 and call.metadata.get("hasleader") == "true":
            return NoLeaderError()
        return None

    def fill(self, header: ResponseHeader) -> None:
        """Complete a header; a revision that is already there stays."""
        member = self.member
        header.cluster_id = member.cluster_id
        header.member_id = member.member_id
        header.raft_term = member.term
        if not header.revision:
            header.revision = member.applier.store.current_revision

    def encoded_header(self, revision: int) -> bytes:
        """Return a complete header as field 1 of a serialized response."""
        term = self.member.term
        if self._encoded_of != (revision, term):
            header = self._ids + b"\x18" + varint(revision)
            if term:
                header += b"\x20" + varint(term)
            self._encoded = b"\x0a" + varint(len(header)) + header
            self._encoded_of = (revision, term)
        return self._encoded

    def fill_without_revision(self, header: ResponseHeader) -> None:
        """Complete a header of the Cluster service, which says nothing about keys."""
        member = self.member
        header.cluster_id = member.cluster_id
        header.member_id = member.member_id
        header.raft_term = member.term

    def coroutine(
        self,
        request_type: type[RequestT],
        serve: Callable[[RequestT], Awaitable[Message]],
        *,
        serves_learner: bool = False,
    ) -> UnaryHandler:
        """Make a handler of a coroutine, for calls that are rare or long."""

        def handler(payload: bytes, call: UnaryCall) -> None:
            refused = self.refusal(call, serves_learner=serves_learner)
            if refused is not None:
                call.fail(refused.code, refused.message)
                return
            try:
                request = request_type.FromString(payload)
            except DecodeError as error:
                call.fail(*malformed_request(error))
                return
            task = asyncio.get_running_loop().create_task(self._answer(serve, request, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return handler

    async def _answer(
        self, serve: Callable[[RequestT], Awaitable[Message]], request: RequestT, call: UnaryCall
    ) -> None:
        try:
            response = await serve(request)
        except (KvError, RpcError) as error:
            call.fail(error.code, error.message)
        except Exception as error:
            # The caller must not wait for ever because of our bug; the loop's handler logs it.
            call.fail(KvError.code, str(error))
            raise
        else:
            call.reply(response.SerializeToString())
