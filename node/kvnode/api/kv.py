"""The KV service: the hot path.

Every handler parses, checks, and hands the request's own bytes to the log; the answer comes back by
callback with its revision set, gets the rest of its header, and goes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from google.protobuf.message import DecodeError, Message

from kvnode.api.errors import RequestTooLargeError, malformed_request
from kvnode.api.gate import Gate
from kvnode.api.long_ranges import LongRanges
from kvnode.api.port import Method, StreamMethod, UnaryCall, UnaryMethod
from kvnode.api.range_stream import RangeStreams
from kvnode.api.streams import Streams
from kvnode.apply.checks import check_delete_range, check_put, check_range, check_txn, is_read_only
from kvnode.apply.commands import CommandKind
from kvnode.apply.reads import encode_range, execute_read_txn, is_long
from kvnode.pb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    TxnRequest,
)
from kvnode.status import KvError

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["KvService"]


class KvService:
    """etcdserverpb.KV."""

    def __init__(self, gate: Gate, streams: Streams) -> None:
        self._gate = gate
        self._streams = streams
        self._member: MemberPort = gate.member
        self._max_request_bytes = gate.member.config.max_request_bytes
        self._long_ranges = LongRanges(gate)
        self._max_txn_ops = gate.member.config.max_txn_ops

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        # A learner answers serializable ones, which only the request itself tells.
        range_stream = self._streams.guarded(RangeStreams(self._gate).serve, serves_learner=True)
        return (
            UnaryMethod("/etcdserverpb.KV/Range", self.range),
            StreamMethod("/etcdserverpb.KV/RangeStream", range_stream, "server_stream"),
            UnaryMethod("/etcdserverpb.KV/Put", self.put),
            UnaryMethod("/etcdserverpb.KV/DeleteRange", self.delete_range),
            UnaryMethod("/etcdserverpb.KV/Txn", self.txn),
            UnaryMethod("/etcdserverpb.KV/Compact", self.compact),
        )

    def range(self, payload: bytes, call: UnaryCall) -> None:
        """Read keys: at once if ``serializable``, else once local state is known to be current."""
        try:
            request = RangeRequest.FromString(payload)
        except DecodeError as error:
            call.fail(*malformed_request(error))
            return
        refused = self._gate.refusal(call, serves_learner=request.serializable)
        if refused is not None:
            call.fail(refused.code, refused.message)
            return
        try:
            check_range(request)
        except KvError as error:
            call.fail(error.code, error.message)
            return

        def check() -> None:
            applier = self._member.applier
            if applier.auth.is_enabled and (caller := self._gate.reader(call)) is not None:
                applier.permissions.check_range(caller, request)

        def execute_at_once() -> bytes:
            # Nothing can change users or roles between this check and the end of the read.
            check()
            # Looked up now: a snapshot may have replaced the state while the read waited.
            store = self._member.applier.store
            answer = encode_range(store, request)
            return self._gate.encoded_header(store.current_revision) + answer

        def execute() -> bytes | None:
            if request.range_end and is_long(self._member.applier.store, request):
                check()
                self._long_ranges.begin(call, request, check, execute_at_once)
                return None
            return execute_at_once()

        self._read(call, execute, request.serializable)

    def put(self, payload: bytes, call: UnaryCall) -> None:
        """Write one key."""
        self._write(CommandKind.PUT, payload, call, lambda: check_put(PutRequest.FromString(payload)))

    def delete_range(self, payload: bytes, call: UnaryCall) -> None:
        """Delete the keys of a range."""
        self._write(
            CommandKind.DELETE_RANGE,
            payload,
            call,
            lambda: check_delete_range(DeleteRangeRequest.FromString(payload)),
        )

    def txn(self, payload: bytes, call: UnaryCall) -> None:
        """Compare, then write or read; without writes it stays out of the log."""
        refused = self._gate.refusal(call)
        if refused is not None:
            call.fail(refused.code, refused.message)
            return
        try:
            request = TxnRequest.FromString(payload)
            check_txn(request, self._max_txn_ops)
        except DecodeError as error:
            call.fail(*malformed_request(error))
            return
        except KvError as error:
            call.fail(error.code, error.message)
            return
        if not is_read_only(request):
            self._propose(CommandKind.TXN, payload, call)
            return

        def execute() -> bytes:
            applier = self._member.applier
            if applier.auth.is_enabled and (caller := self._gate.reader(call)) is not None:
                applier.permissions.check_txn(caller, request)
            response = execute_read_txn(applier.store, request)
            self._gate.fill(response.header)
            return response.SerializeToString()

        self._read(call, execute, _is_serializable(request))

    def compact(self, payload: bytes, call: UnaryCall) -> None:
        """Give up old revisions; ``physical`` waits until this member has deleted them."""
        refused = self._gate.refusal(call)
        if refused is not None:
            call.fail(refused.code, refused.message)
            return
        try:
            request = CompactionRequest.FromString(payload)
        except DecodeError as error:
            call.fail(*malformed_request(error))
            return
        if not request.physical:
            self._propose(CommandKind.COMPACT, payload, call)
            return

        def reply_when_deleted(response: Message) -> None:
            _CompactionWaiter(self._member, lambda: self._reply(response, call)).look()

        self._propose(CommandKind.COMPACT, payload, call, then=reply_when_deleted)

    def _write(self, kind: CommandKind, payload: bytes, call: UnaryCall, check: Callable[[], object]) -> None:
        refused = self._gate.refusal(call)
        if refused is not None:
            call.fail(refused.code, refused.message)
            return
        try:
            check()
        except DecodeError as error:
            call.fail(*malformed_request(error))
            return
        except KvError as error:
            call.fail(error.code, error.message)
            return
        self._propose(kind, payload, call)

    def _propose(
        self,
        kind: CommandKind,
        payload: bytes,
        call: UnaryCall,
        then: Callable[[Message], None] | None = None,
    ) -> None:
        if len(payload) > self._max_request_bytes:
            error = RequestTooLargeError()
            call.fail(error.code, error.message)
            return
        caller = None
        if self._member.applier.auth.is_enabled:
            try:
                caller = self._gate.caller(call)
            except KvError as refused:
                call.fail(refused.code, refused.message)
                return

        def done(result: Message | KvError) -> None:
            if isinstance(result, KvError):
                call.fail(result.code, result.message)
            elif then is not None:
                then(result)
            else:
                self._reply(result, call)

        self._member.propose(kind, payload, done, caller)

    def _read(self, call: UnaryCall, execute: Callable[[], bytes | None], is_serializable: bool) -> None:
        """Answer with what ``execute`` returns; None: it sees to the answer itself."""

        def answer(error: KvError | None) -> None:
            if error is None:
                try:
                    payload = execute()
                    if payload is not None:
                        call.reply(payload)
                    return
                except KvError as refused:
                    error = refused
            call.fail(error.code, error.message)

        if is_serializable:
            answer(None)
        else:
            self._member.linearizable(answer)

    def _reply(self, response: Message, call: UnaryCall) -> None:
        # Every response has its header in the same place, so that one type stands for all.
        self._gate.fill(cast(PutResponse, response).header)
        call.reply(response.SerializeToString())


def _is_serializable(request: TxnRequest) -> bool:
    """Whether every range of a read-only transaction may be answered from local state."""
    return all(
        op.request_range.serializable for branch in (request.success, request.failure) for op in branch
    )


class _CompactionWaiter:
    """Looks, now and then, whether this member has deleted what was compacted.

    Polling keeps the store free of callbacks; a compaction takes long and few wait for one.
    """

    INTERVAL_S = 0.05

    def __init__(self, member: MemberPort, done: Callable[[], None]) -> None:
        self._member = member
        self._target = member.applier.store.compact_revision
        self._done = done

    def look(self) -> None:
        """Call ``done`` if all is deleted, else look again later."""
        if self._member.applier.store.compacted_revision >= self._target:
            self._done()
        else:
            asyncio.get_running_loop().call_later(self.INTERVAL_S, self.look)
