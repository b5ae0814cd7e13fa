"""KV.RangeStream: a range of any size in pieces, all of one revision.

A piece holds as many pairs as fit into about ``--max-request-bytes``; reading one is cut into slices of
a few milliseconds, with turns of the event loop between them, so that a list of a million keys delays
nobody.  Nothing is held between slices but the last key: the records of the pinned revision stay
readable until they are compacted, which ends the stream with the error that a range would give.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvnode.api.gate import Gate
from kvnode.api.port import RpcError, StreamCall
from kvnode.api.streams import parse
from kvnode.apply.checks import check_range
from kvnode.apply.reads import count_range, encode_slice
from kvnode.auth.caller import Caller
from kvnode.auth.errors import AuthRevisionOldError
from kvnode.mvcc.records import length_prefixed, varint
from kvnode.pb.rpc_pb2 import RangeRequest
from kvnode.status import StatusCode

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["RangeStreams"]

#: Pairs in the first piece (etcd's number): the client sees something soon.
FIRST_PIECE = 10

#: Pairs and bytes read between two turns of the event loop.
SLICE_PAIRS = 500
SLICE_BYTES = 256 * 1024

#: Stands for no limit: more keys than any store holds.
_UNLIMITED = 2**63 - 1


class RangeStreams:
    """Serves the streams of one member."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._member: MemberPort = gate.member

    async def serve(self, call: StreamCall) -> None:
        """Answer the one request of a stream."""
        async for payload in call:
            request = parse(RangeRequest, payload)
            refused = self._gate.refusal(call, serves_learner=request.serializable)
            if refused is not None:
                raise refused
            _check(request)
            if not request.serializable:
                await self._member.confirm_linearizable()
            applier = self._member.applier
            caller = self._gate.reader(call)
            if caller is not None:
                applier.permissions.check_range(caller, request)
            await self._answer(request, call, caller)
            return

    async def _answer(self, request: RangeRequest, call: StreamCall, caller: Caller | None) -> None:
        store = self._member.applier.store
        # That of the moment the stream began, in every case; also the revision of an unpinned request.
        header_revision = store.current_revision
        revision = request.revision if request.revision > 0 else header_revision
        count = count_range(store, request.key, request.range_end, revision)
        if request.count_only:
            await call.write(_piece(b"", self._ending(header_revision, False, count)))
            return
        remaining = request.limit if request.limit > 0 else _UNLIMITED
        start, wanted = request.key, FIRST_PIECE
        while True:
            pairs, size, last_key, has_more = await self._read(
                request, start, revision, min(wanted, remaining)
            )
            if caller is not None and caller.auth_revision != self._member.applier.auth.revision:
                # What was read meanwhile may no longer be the caller's to see.
                raise AuthRevisionOldError
            remaining -= size
            if not has_more or not remaining:
                await call.write(_piece(pairs, self._ending(header_revision, has_more, count)))
                return
            await call.write(_piece(pairs, (b"", b"")))
            start = last_key + b"\0"
            wanted = _adjusted(wanted, len(pairs), self._member.config.max_request_bytes)

    async def _read(
        self, request: RangeRequest, start: bytes, revision: int, wanted: int
    ) -> tuple[bytes, int, bytes, bool]:
        """Return one piece: its pairs, their number, the last key, whether more keys follow."""
        parts: list[bytes] = []
        size = 0
        while True:
            # Looked up each time: a snapshot may have replaced the state.
            part = encode_slice(
                self._member.applier.store,
                start,
                request.range_end,
                revision,
                limit=min(wanted - size, SLICE_PAIRS),
                limit_bytes=SLICE_BYTES,
                keys_only=request.keys_only,
            )
            parts.append(part.encoded)
            size += part.size
            if not part.has_more or size >= wanted:
                return b"".join(parts), size, part.last_key, part.has_more
            start = part.last_key + b"\0"
            await asyncio.sleep(0)

    def _ending(self, revision: int, has_more: bool, count: int) -> tuple[bytes, bytes]:
        """What only the last piece has: in front of the pairs, and behind them."""
        more = b"\x18\x01" if has_more else b""
        return self._gate.encoded_header(revision), more + (b"\x20" + varint(count) if count else b"")


def _check(request: RangeRequest) -> None:
    check_range(request)
    # Ascending by key is what there is; without an order etcd overlooks the target here.
    is_by_key = request.sort_target == RangeRequest.KEY and request.sort_order == RangeRequest.ASCEND
    if request.sort_order != RangeRequest.NONE and not is_by_key:
        raise RpcError(StatusCode.UNIMPLEMENTED, "RangeStream does not support custom sort orders")
    if (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    ):
        raise RpcError(StatusCode.UNIMPLEMENTED, "RangeStream does not support revision filters")


def _adjusted(pairs: int, size_bytes: int, target_bytes: int) -> int:
    """Return how many pairs the next piece should have."""
    if size_bytes < target_bytes // 2:
        return pairs * 2
    if size_bytes > target_bytes * 2:
        return max(pairs // 2, 1)
    return pairs


def _piece(pairs: bytes, around: tuple[bytes, bytes]) -> bytes:
    """Return a serialized RangeStreamResponse."""
    before, behind = around
    return b"\x0a" + length_prefixed(before + pairs + behind)
