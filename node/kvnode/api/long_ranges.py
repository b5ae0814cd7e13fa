"""Ranges that take long, answered a slice at a turn of the event loop.

However many there are, a turn reads one slice: other requests wait a few milliseconds for it, whatever is
listed.  The answer is that of the moment at which the range began.

They take turns as long as the parts of all answers are small enough to be held; beyond that one is read to
its end before the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from kvnode.api.port import UnaryCall
from kvnode.apply.reads import LongRange
from kvnode.mvcc.errors import CompactedError
from kvnode.server.errors import TooManyRequestsError
from kvnode.status import KvError

if TYPE_CHECKING:
    from kvnode.api.gate import Gate
    from kvnode.pb.rpc_pb2 import RangeRequest

__all__ = ["LongRanges"]

#: Long ranges that may wait; beyond, new ones are refused.
LIMIT_COUNT: Final = 10_000
#: Bytes of unfinished answers beyond which ranges no longer take turns.
LIMIT_BYTES: Final = 64 * 2**20


class _Reading(NamedTuple):
    call: UnaryCall
    request: RangeRequest
    range: LongRange
    begun_s: float
    #: Checks the caller's permission, and answers in one go.
    check: Callable[[], None]
    execute: Callable[[], bytes]


class LongRanges:
    """The long ranges of one member."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._member = gate.member
        self._readings: deque[_Reading] = deque()
        #: What was read of them so far.
        self._held_bytes = 0

    def begin(
        self, call: UnaryCall, request: RangeRequest, check: Callable[[], None], execute: Callable[[], bytes]
    ) -> None:
        """Answer ``call`` later.

        Args:
            call: is answered in any case.
            request: a checked one, whose caller is permitted to make it.
            check: raises if the caller no longer is; called before the answer goes out.
            execute: answers in one go.

        Raises:
            KvError: the asked revision can't be read, or too many ranges wait.
        """
        if len(self._readings) >= LIMIT_COUNT:
            raise TooManyRequestsError
        store = self._member.applier.store
        reading = _Reading(call, request, LongRange(store, request), store.operations.clock(), check, execute)
        self._readings.append(reading)
        if len(self._readings) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        reading = self._readings.popleft()
        before_bytes = reading.range.size_bytes
        if reading.call.is_cancelled or self._advance(reading):
            self._held_bytes -= before_bytes
        else:
            self._held_bytes += reading.range.size_bytes - before_bytes
            if self._held_bytes > LIMIT_BYTES:
                self._readings.appendleft(reading)
            else:
                self._readings.append(reading)
        if self._readings:
            asyncio.get_running_loop().call_soon(self._turn)

    def _advance(self, reading: _Reading) -> bool:
        """Read a slice; returns whether the call was answered."""
        # Looked up each time: a snapshot may have replaced the state.
        store = self._member.applier.store
        try:
            if not reading.range.step(store):
                return False
            reading.check()
            header = self._gate.encoded_header(reading.range.header_revision)
            answer = reading.range.encoded(header)
        except CompactedError as error:
            if reading.request.revision > 0:
                self._fail(reading, error)
            else:
                self._answer_at_once(reading)
            return True
        except KvError as error:
            self._fail(reading, error)
            return True
        operations = store.operations
        operations.ranges += 1
        operations.range_s.observe(operations.clock() - reading.begun_s)
        reading.call.reply(answer)
        return True

    def _answer_at_once(self, reading: _Reading) -> None:
        """The revision was compacted under a range that asked for none: it hears of no such thing."""
        try:
            answer = reading.execute()
        except KvError as error:
            reading.call.fail(error.code, error.message)
            return
        reading.call.reply(answer)

    def _fail(self, reading: _Reading, error: KvError) -> None:
        operations = self._member.applier.store.operations
        operations.ranges += 1
        operations.range_failed_s.observe(operations.clock() - reading.begun_s)
        reading.call.fail(error.code, error.message)
