"""The Watch service: many watches on one stream, whose order is the whole point.

Everything that a stream sends goes through one queue: "created" before the events of its watch, and a
progress report behind the events that it vouches for (etcd issue 15220).  The queue is bounded: when it
is full the hub keeps what was refused and offers it again, so that a client that does not read costs a
fixed amount of memory and delays nobody else.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kvnode.api.catch_up import CatchUp
from kvnode.api.gate import Gate
from kvnode.api.port import REQUEST_OVERHEAD_BYTES, Method, RpcError, StreamCall, StreamMethod
from kvnode.api.streams import Streams, parse
from kvnode.auth.errors import AuthError
from kvnode.mvcc.errors import CompactedError, WatchIdInUseError
from kvnode.mvcc.watch import Watcher, WatchSpec
from kvnode.pb.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.mvcc.events import EventBatch

__all__ = ["WatchService"]

#: Responses that may wait on a stream (etcd's number) and their bytes.
QUEUE_RESPONSES = 128
QUEUE_BYTES = 8 * 2**20
#: Bytes that may wait on all streams together: beyond, a stream queues nothing before it has sent all.
ALL_QUEUES_BYTES = 64 * 2**20

#: How long a stream that ends with an error waits for a client that does not read.
LAST_WRITE_S = 1.0

#: No watch: of a creation that was rejected, and of progress that all watches of a stream have made.
NO_WATCH = -1

#: A progress report that is asked for while a watch is behind is given this much later, if it can be.
PROGRESS_RETRY_S = 0.02

#: Part of the interval between progress reports that is chance, so that streams don't report at once.
PROGRESS_JITTER = 0.1


class WatchService:
    """etcdserverpb.Watch."""

    def __init__(self, gate: Gate, streams: Streams, *, chance: Callable[[], float] = random.random) -> None:
        self._gate = gate
        self._streams = streams
        self._catch_up = CatchUp(gate.member)
        self._chance = chance
        self._queued = _Queued()

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._catch_up.streams

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        return (StreamMethod("/etcdserverpb.Watch/Watch", self._streams.guarded(self.watch), "bidi_stream"),)

    async def watch(self, call: StreamCall) -> None:
        """Serve one stream until the client cancels it."""
        stream = _WatchStream(self._gate, call, self._catch_up, self._queued, self._chance)
        self._catch_up.stream_opened()
        writer = asyncio.get_running_loop().create_task(stream.write_queued())
        try:
            await stream.read_requests()
            # A client that has no more requests still wants its events.
            await writer
        except (KvError, RpcError):
            # What was answered before goes out before the error, if the client takes it.
            stream.close()
            await asyncio.wait({writer}, timeout=LAST_WRITE_S)
            raise
        finally:
            stream.close()
            self._catch_up.stream_closed()
            writer.cancel()
            stream.drop_queued()


class _Watch:
    """One watch as its stream knows it."""

    __slots__ = ("allows_fragments", "had_events", "id", "id_field", "wants_progress")

    def __init__(self, watch_id: int, request: WatchCreateRequest) -> None:
        self.id = watch_id
        #: Encoded once: every response of the watch begins with it.
        self.id_field = WatchResponse(watch_id=watch_id).SerializeToString()
        self.allows_fragments = request.fragment
        self.wants_progress = request.progress_notify
        #: Since the last progress report.
        self.had_events = False


class _Queued:
    """What waits on all streams."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = 0


class _WatchStream:
    """One stream's watches and its queue; the hub's sink for all of them."""

    def __init__(
        self,
        gate: Gate,
        call: StreamCall,
        catch_up: CatchUp,
        all_queued: _Queued,
        chance: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._all_queued = all_queued
        self._member = gate.member
        self._call = call
        self._catch_up = catch_up
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._watchers: dict[int, Watcher] = {}
        self._watches: dict[Watcher, _Watch] = {}
        self._next_id = 0
        #: Each response as ``StreamCall.write`` takes it.
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._queued_bytes = 0
        #: A response is being written, so that nothing may overtake it.
        self._is_writing = False
        self._refused_some = False
        self._is_closed = False
        self._has_queued = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._fragment_bytes = self._member.config.max_request_bytes + REQUEST_OVERHEAD_BYTES
        self._progress_timer: asyncio.TimerHandle | None = None
        self._asked_progress: asyncio.TimerHandle | None = None

    # The hub's sink.

    def deliver(self, watcher: Watcher, revision: int, batch: EventBatch) -> bool:
        """Queue events, unless the queue is full."""
        queue = self._queue
        if (
            len(queue) >= QUEUE_RESPONSES
            or self._queued_bytes >= QUEUE_BYTES
            or ((queue or self._is_writing) and self._all_queued.size_bytes >= ALL_QUEUES_BYTES)
        ):
            self._refused_some = True
            return False
        watch = self._watches[watcher]
        watch.had_events = True
        head = self._gate.encoded_header(revision) + watch.id_field
        if not watch.allows_fragments or batch.size_bytes <= self._fragment_bytes or len(batch) == 1:
            self._send(head, batch.encoded)
            return True
        parts = [part.encoded for part in batch.fragments(self._fragment_bytes)]
        for part in parts[:-1]:
            self._send(head + _FRAGMENT, part)
        self._send(head, parts[-1])
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """Tell the client that this watch can't go on."""
        watch = self._watches.pop(watcher)
        del self._watchers[watch.id]
        response = WatchResponse(watch_id=watch.id, canceled=True, compact_revision=compact_revision)
        # Without a revision, as from etcd: nothing is promised up to anywhere.
        self._gate.fill_without_revision(response.header)
        self._send(response.SerializeToString())

    # The stream's two halves.

    async def read_requests(self) -> None:
        """Serve requests in the order they come."""
        async for payload in self._call:
            # Answers to requests are never refused, so that requests have to wait instead.
            await self._has_room.wait()
            request = parse(WatchRequest, payload)
            kind = request.WhichOneof("request_union")
            if kind == "create_request":
                self._create(request.create_request)
            elif kind == "cancel_request":
                self._cancel(request.cancel_request.watch_id)
            elif kind == "progress_request":
                self._report_progress()

    async def write_queued(self) -> None:
        """Send what is queued, for as long as the stream lives."""
        while self._queue or not self._is_closed:
            await self._has_queued.wait()
            self._has_queued.clear()
            while self._queue:
                payload, shared = self._queue.popleft()
                size_bytes = len(payload) + len(shared)
                self._queued_bytes -= size_bytes
                self._all_queued.size_bytes -= size_bytes
                self._is_writing = True
                await self._call.write(payload, shared)
                self._is_writing = False
                if len(self._queue) <= QUEUE_RESPONSES // 2 and self._queued_bytes <= QUEUE_BYTES // 2:
                    self._has_room.set()
                    if self._refused_some:
                        self._refused_some = False
                        self._catch_up.kick()

    def close(self) -> None:
        """End all watches, and the writer once the queue is empty."""
        self._is_closed = True
        self._has_queued.set()
        for watcher in self._watches:
            self._member.hub.cancel(watcher)
        self._watches.clear()
        self._watchers.clear()
        for timer in (self._progress_timer, self._asked_progress):
            if timer is not None:
                timer.cancel()

    def drop_queued(self) -> None:
        """Nothing more is sent."""
        self._queue.clear()
        self._all_queued.size_bytes -= self._queued_bytes
        self._queued_bytes = 0

    # Requests.

    def _create(self, request: WatchCreateRequest) -> None:
        spec = WatchSpec(
            request.key,
            request.range_end,
            request.start_revision,
            prev_kv=request.prev_kv,
            no_put=WatchCreateRequest.NOPUT in request.filters,
            no_delete=WatchCreateRequest.NODELETE in request.filters,
        )
        try:
            if request.start_revision >= 0:
                self._check_permission(request)
            if request.watch_id and request.watch_id in self._watchers:
                raise WatchIdInUseError
            watcher = self._member.hub.create(spec, self)
        except AuthError as error:
            # Clients read these in the form in which Go shows a status.
            reason = f"rpc error: code = {_GO_NAMES[error.code]} desc = {error.message}"
            self._respond(WatchResponse(watch_id=NO_WATCH, created=True, canceled=True, cancel_reason=reason))
            return
        except KvError as error:
            # etcd leaves the prefix of all its messages out here, but for this one error.
            reason = error.message if isinstance(error, CompactedError) else str(error.args[0])
            self._respond(WatchResponse(watch_id=NO_WATCH, created=True, canceled=True, cancel_reason=reason))
            return
        watch = _Watch(request.watch_id or self._free_id(), request)
        self._watchers[watch.id] = watcher
        self._watches[watcher] = watch
        self._respond(WatchResponse(watch_id=watch.id, created=True))
        if not watcher.is_synced:
            self._catch_up.kick()
        if watch.wants_progress and self._progress_timer is None:
            self._start_progress_timer()

    def _check_permission(self, request: WatchCreateRequest) -> None:
        """Raise unless the caller may read what is to be watched, by the range as it was asked for.

        Once created a watch goes on, as in etcd, whatever becomes of its user.
        """
        caller = self._gate.caller(self._call)
        if caller is not None:
            key = request.key or _SMALLEST_KEY
            self._member.applier.auth.check_read(caller, key, request.range_end)

    def _cancel(self, watch_id: int) -> None:
        watcher = self._watchers.pop(watch_id, None)
        if watcher is None:
            return
        del self._watches[watcher]
        self._member.hub.cancel(watcher)
        self._respond(WatchResponse(watch_id=watch_id, canceled=True))

    def _report_progress(self) -> None:
        """Report what all watches have seen, now or as soon as none of them is behind."""
        if self._asked_progress is not None:
            return
        revision = self._member.hub.progress(self._watches)
        if revision is None:
            self._asked_progress = self._loop.call_later(PROGRESS_RETRY_S, self._report_later)
        else:
            response = WatchResponse(watch_id=NO_WATCH)
            response.header.revision = revision
            self._respond(response)

    def _report_later(self) -> None:
        self._asked_progress = None
        self._report_progress()

    def _free_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    # Progress without being asked.

    def _start_progress_timer(self) -> None:
        interval_s = self._member.config.watch_progress_notify_interval_s
        delay_s = interval_s * (1 + PROGRESS_JITTER * self._chance())
        self._progress_timer = self._loop.call_later(delay_s, self._notify_progress)

    def _notify_progress(self) -> None:
        self._start_progress_timer()
        if len(self._queue) >= QUEUE_RESPONSES:
            return  # to a client that does not read, not even what it was sent before
        for watcher, watch in self._watches.items():
            if not watch.wants_progress:
                continue
            if watch.had_events:
                watch.had_events = False
                continue
            revision = self._member.hub.progress((watcher,))
            if revision is not None:
                response = WatchResponse(watch_id=watch.id)
                response.header.revision = revision
                self._respond(response)

    # The queue.

    def _respond(self, response: WatchResponse) -> None:
        self._gate.fill(response.header)
        self._send(response.SerializeToString())

    def _send(self, payload: bytes, shared: bytes = b"") -> None:
        """Send a response; ``shared`` is the end of it, if watches of other streams have the same."""
        if not self._queue and not self._is_writing and self._call.try_write(payload, shared):
            return
        size_bytes = len(payload) + len(shared)
        self._queue.append((payload, shared))
        self._queued_bytes += size_bytes
        self._all_queued.size_bytes += size_bytes
        self._has_queued.set()
        if len(self._queue) >= QUEUE_RESPONSES:
            self._has_room.clear()


#: What an empty key of a watch stands for.
_SMALLEST_KEY = b"\0"

#: Codes of refused watches as Go spells them.
_GO_NAMES = {
    StatusCode.INVALID_ARGUMENT: "InvalidArgument",
    StatusCode.PERMISSION_DENIED: "PermissionDenied",
    StatusCode.UNAUTHENTICATED: "Unauthenticated",
}

#: Field 7, "more parts of this revision follow".
_FRAGMENT = WatchResponse(fragment=True).SerializeToString()
