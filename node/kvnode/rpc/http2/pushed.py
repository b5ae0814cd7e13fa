"""Streams whose messages go to a receiver by plain calls: no task, no queue (``kvnode.api.pushed``)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvnode.api.port import RpcError, StreamMethod
from kvnode.rpc.http2.calls import PREFIX_BYTES, Call, CallHost
from kvnode.rpc.http2.requests import RequestHead
from kvnode.rpc.stats import MethodStats
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.api.pushed import PushHandler, Receiver
    from kvnode.rpc.http2.connection import Connection

__all__ = ["PushRoute", "PushStream"]

logger = logging.getLogger(__name__)


class PushRoute:
    """A method with such streams as the transport finds it."""

    __slots__ = ("handler", "host", "path", "stats")

    def __init__(self, method: StreamMethod, handler: PushHandler, host: CallHost) -> None:
        self.path = method.path
        self.handler = handler
        self.host = host
        self.stats: MethodStats = host.stats.of(method.path, method.kind)


class PushStream(Call):
    """One stream; the receiver's ``PushedCall``."""

    __slots__ = ("_is_unreadable", "_owed_bytes", "_receiver", "_route")

    def __init__(self, connection: Connection, stream_id: int, head: RequestHead, route: PushRoute) -> None:
        super().__init__(connection, stream_id, head)
        self._route = route
        self._receiver: Receiver | None = None
        #: Taken, but given back to the client only once it has read the answers.
        self._owed_bytes = 0
        self._is_unreadable = False

    def opened(self) -> None:
        route = self._route
        route.stats.started += 1
        self._watch_deadline(route.host.deadlines)
        refused = self._refuse_encoding()
        if refused is not None:
            self.fail(refused.code, refused.message)
            return
        try:
            self._receiver = route.handler(self)
        except (KvError, RpcError) as error:
            self.fail(error.code, error.message)
        except Exception as error:
            self._broken(error)

    # The request.

    def receive(self, data: bytes, start: int, stop: int, is_last: bool) -> None:
        size = stop - start
        receiver = self._receiver
        if self.is_over or self._is_unreadable or receiver is None:
            self.connection.give_back(self, size)
            return
        try:
            if (
                not self._pieces
                and size >= PREFIX_BYTES
                and not data[start]
                and int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big") == size - PREFIX_BYTES
                and size <= self.connection.limits.max_message_bytes
            ):
                self._route.host.stats.received_bytes += size - PREFIX_BYTES
                receiver.message(data[start + PREFIX_BYTES : stop])
            else:
                for flag, message in self._take_messages(data, start, stop):
                    payload = self._payload(flag, message)
                    # The receiver knows only how large it is without compression.
                    self.connection.give_back(self, max(0, len(message) - len(payload)))
                    self._route.host.stats.received_bytes += len(payload)
                    receiver.message(payload)
            if is_last:
                receiver.ended()
        except RpcError as error:
            self._is_unreadable = True
            receiver.unreadable(error)
        except Exception as error:
            self._broken(error)

    def receive_end(self) -> None:
        if self._receiver is not None and not self.is_over and not self._is_unreadable:
            self._receiver.ended()

    def cancelled(self) -> None:
        self.is_cancelled = True
        self._over(StatusCode.CANCELLED)

    def writable(self) -> None:
        owed_bytes, self._owed_bytes = self._owed_bytes, 0
        self.connection.give_back(self, owed_bytes)

    def _broken(self, error: Exception) -> None:
        logger.error("stream failed", extra={"method": self._route.path}, exc_info=error)
        self.fail(StatusCode.UNKNOWN, str(error))

    def _over(self, code: StatusCode) -> bool:
        """Count the end, once; False: it was over."""
        if self.is_over:
            return False
        self.is_over = True
        self._route.stats.handled[code] += 1
        if self._receiver is not None:
            self._receiver.closed()
        return True

    # The port.

    def write(self, payload: bytes) -> None:
        if self.is_over:
            return
        self._route.host.stats.sent_bytes += len(payload)
        if not self.has_begun:
            self._send_head()
        self.connection.send_data(self, self._framed(payload))

    def took(self, size_bytes: int) -> None:
        if self.pending is not None:
            self._owed_bytes += size_bytes + PREFIX_BYTES
        else:
            self.connection.give_back(self, size_bytes + PREFIX_BYTES)

    def finish(self) -> None:
        if self._over(StatusCode.OK):
            if not self.has_begun:
                self._send_head()
            self.connection.finish(self, self.connection.answer_headers.next_ok)

    def fail(self, code: StatusCode, message: str) -> None:
        if self._over(code):
            self._send_status(code, message)
