"""What ends long streams from this side: a member cut off from its leader, or one that stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from kvnode.api.errors import malformed_message
from kvnode.api.gate import Gate
from kvnode.api.port import Call, RpcError, StreamCall, StreamHandler
from kvnode.api.pushed import PushedCall, PushHandler, Receiver
from kvnode.server.errors import NoLeaderError, StoppedError
from kvnode.status import KvError

__all__ = ["Streams", "parse"]

RequestT = TypeVar("RequestT", bound=Message)

#: A stream that asked for a leader outlives this many election timeouts without one (etcd's number),
#: so that a quick election does not cost every client its watches.
ELECTIONS_WITHOUT_LEADER = 3


def parse(request_type: type[RequestT], payload: bytes) -> RequestT:
    """Return the message, or end the stream with the status of malformed bytes."""
    try:
        return request_type.FromString(payload)
    except DecodeError as error:
        raise RpcError(*malformed_message(error)) from error


class Streams:
    """All open streams of this member's services."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._member = gate.member
        #: Task of each open stream, and whether it is to end when the leader is lost.
        self._open: dict[asyncio.Task[object], bool] = {}
        self._reasons: dict[asyncio.Task[object], KvError] = {}
        #: The same of streams without a task.
        self._pushed: dict[PushedCall, bool] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] = self._member.on_leader_change(self._leader_changed)
        self._leader_changed()

    def guarded(self, handler: StreamHandler, *, serves_learner: bool = False) -> StreamHandler:
        """Wrap a stream's handler in the checks and the ends that all streams share."""

        async def serve(call: StreamCall) -> None:
            refused = self._refusal(call, serves_learner=serves_learner)
            if refused is not None:
                raise refused
            if self._gate.is_stopping:
                raise StoppedError
            task = asyncio.current_task()
            assert task is not None
            self._open[task] = call.metadata.get("hasleader") == "true"
            try:
                await handler(call)
            except asyncio.CancelledError:
                reason = self._reasons.pop(task, None)
                if reason is None:
                    raise
                task.uncancel()
                raise reason from None
            finally:
                del self._open[task]
                self._reasons.pop(task, None)

        return serve

    def guarded_push(self, handler: PushHandler) -> PushHandler:
        """``guarded`` for streams without a task."""

        def open_stream(call: PushedCall) -> Receiver:
            refused = self._refusal(call, serves_learner=False)
            if refused is not None:
                raise refused
            if self._gate.is_stopping:
                raise StoppedError
            receiver = _GuardedReceiver(handler(call), call, self._pushed)
            self._pushed[call] = call.metadata.get("hasleader") == "true"
            return receiver

        return open_stream

    def close(self) -> None:
        """End every stream, so that clients go on at another member.  Idempotent."""
        if self._gate.is_stopping:
            return
        self._gate.is_stopping = True
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        self._end(list(self._open), StoppedError)
        self._end_pushed(list(self._pushed), StoppedError())

    def _refusal(self, call: Call, *, serves_learner: bool) -> KvError | None:
        refused = self._gate.refusal(call, serves_learner=serves_learner)
        if isinstance(refused, NoLeaderError) and self._timer is not None:
            # A client that comes from a member that has just died finds the others without a leader, too: it
            # lives on without one as long as those streams that are open, where etcd ends its watches.
            return None
        return refused

    def _leader_changed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._member.leader_id == 0:
            delay_s = ELECTIONS_WITHOUT_LEADER * self._member.config.election_timeout_ms / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._leader_missing)

    def _leader_missing(self) -> None:
        self._timer = None
        self._end([task for task, needs_leader in self._open.items() if needs_leader], NoLeaderError)
        self._end_pushed(
            [call for call, needs_leader in self._pushed.items() if needs_leader], NoLeaderError()
        )

    @staticmethod
    def _end_pushed(calls: list[PushedCall], error: KvError) -> None:
        for call in calls:
            call.fail(error.code, error.message)

    def _end(self, tasks: list[asyncio.Task[object]], error: type[KvError]) -> None:
        for task in tasks:
            if task not in self._reasons:
                self._reasons[task] = error()
                task.cancel()


class _GuardedReceiver:
    """A receiver whose stream is known to be open as long as it is."""

    __slots__ = ("_call", "_close", "_open", "ended", "message", "unreadable")

    def __init__(self, receiver: Receiver, call: PushedCall, open_calls: dict[PushedCall, bool]) -> None:
        self._call = call
        self._open = open_calls
        self._close = receiver.closed
        # The receiver's own methods: nothing stands between them and the transport.
        self.message = receiver.message
        self.ended = receiver.ended
        self.unreadable = receiver.unreadable

    def closed(self) -> None:
        del self._open[self._call]
        self._close()
