"""Streams whose messages are handed over one by one, by plain calls.

A stream that lives for one message would spend most of its time on being a task.  Where a service needs
no waiting of its own, it gives a ``PushHandler``; transports that know nothing of it use ``as_handler``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from kvnode.api.port import Call, RpcError, StreamCall, StreamHandler
from kvnode.api.wrapped_call import WrappedCall
from kvnode.status import KvError, StatusCode

__all__ = ["PushHandler", "PushedCall", "Receiver", "as_handler"]


class Receiver(Protocol):
    """A service's side of one stream."""

    def message(self, payload: bytes) -> None:
        """Take the client's next message; ``PushedCall.took`` must follow, sooner or later."""
        ...

    def ended(self) -> None:
        """The client has no more messages."""
        ...

    def unreadable(self, error: KvError | RpcError) -> None:
        """What comes next is no message: fail with this, behind the answers to what came before."""
        ...

    def closed(self) -> None:
        """The stream is over, for whatever reason; heard once, and nothing is heard afterwards."""
        ...


class PushedCall(Call, Protocol):
    """The transport's side of one stream.  Once it is over nothing that is asked of it has an effect."""

    def write(self, payload: bytes) -> None:
        """Send one message, now or when the client takes it."""
        ...

    def took(self, size_bytes: int) -> None:
        """A message of this size is done with, so that the client may send as much again.

        What is not taken bounds what a client can make this member hold.
        """
        ...

    def finish(self) -> None:
        """End the stream in good order, behind what was written."""
        ...

    def fail(self, code: StatusCode, message: str) -> None:
        """End the stream with a status, behind what was written."""
        ...


#: Takes up a stream; raises ``KvError`` or ``RpcError`` to refuse it.
PushHandler = Callable[[PushedCall], Receiver]


def as_handler(open_stream: PushHandler) -> StreamHandler:
    """Return a coroutine that serves the same stream."""

    async def serve(call: StreamCall) -> None:
        pushed = _PulledCall(call)
        receiver = open_stream(pushed)
        reading = asyncio.get_running_loop().create_task(pushed.read(receiver))
        try:
            await pushed.write_queued()
        finally:
            pushed.is_over = True
            reading.cancel()
            receiver.closed()

    return serve


class _PulledCall(WrappedCall[StreamCall]):
    """``PushedCall`` on top of a ``StreamCall``."""

    #: Bytes of messages that may be under way before the next one is read.
    LIMIT_BYTES = 64 * 1024

    def __init__(self, call: StreamCall) -> None:
        super().__init__(call)
        self._queue: deque[bytes] = deque()
        self._end: RpcError | None = None
        self._under_way_bytes = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._has_work = asyncio.Event()
        self.is_over = False

    async def read(self, receiver: Receiver) -> None:
        """Hand the client's messages over."""
        try:
            async for payload in self._call:
                self._under_way_bytes += len(payload)
                if self._under_way_bytes > self.LIMIT_BYTES:
                    self._may_read.clear()
                receiver.message(payload)
                await self._may_read.wait()
        except (KvError, RpcError) as error:
            receiver.unreadable(error)
        except Exception as error:
            # The caller must not wait for ever because of our bug; the loop's handler logs it.
            self.fail(StatusCode.UNKNOWN, str(error))
            raise
        else:
            receiver.ended()

    async def write_queued(self) -> None:
        """Send what is written, until the end."""
        while True:
            while self._queue:
                await self._call.write(self._queue.popleft())
            if self._end is not None:
                if self._end.code is StatusCode.OK:
                    return
                raise self._end
            self._has_work.clear()
            await self._has_work.wait()

    def write(self, payload: bytes) -> None:
        if self._end is None and not self.is_over:
            self._queue.append(payload)
            self._has_work.set()

    def took(self, size_bytes: int) -> None:
        self._under_way_bytes -= size_bytes
        if self._under_way_bytes <= self.LIMIT_BYTES:
            self._may_read.set()

    def finish(self) -> None:
        self.fail(StatusCode.OK, "")

    def fail(self, code: StatusCode, message: str) -> None:
        if self._end is None:
            self._end = RpcError(code, message)
            self._has_work.set()
