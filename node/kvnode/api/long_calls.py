"""Unary calls that may wait for minutes: each is a task that ends with its call, or with the member."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from kvnode.api.errors import malformed_request
from kvnode.api.gate import Gate
from kvnode.api.port import RpcError, UnaryCall, UnaryHandler
from kvnode.server.errors import StoppedError
from kvnode.status import KvError

__all__ = ["LongCalls"]

RequestT = TypeVar("RequestT", bound=Message)


class LongCalls:
    """The long unary calls of this member's services."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._running: dict[asyncio.Task[None], UnaryCall] = {}

    def method(
        self, request_type: type[RequestT], serve: Callable[[RequestT, UnaryCall], Awaitable[Message]]
    ) -> UnaryHandler:
        """Make a handler of a coroutine, which is cancelled when nobody waits for its answer any more.

        It may raise ``KvError`` or ``RpcError``.
        """

        def handler(payload: bytes, call: UnaryCall) -> None:
            refused = self._gate.refusal(call)
            if refused is None and self._gate.is_stopping:
                refused = StoppedError()
            if refused is not None:
                call.fail(refused.code, refused.message)
                return
            try:
                request = request_type.FromString(payload)
            except DecodeError as error:
                call.fail(*malformed_request(error))
                return
            task = asyncio.get_running_loop().create_task(_answer(serve, request, call))
            self._running[task] = call
            task.add_done_callback(self._running.pop)
            call.on_cancel(task.cancel)

        return handler

    def close(self) -> None:
        """Answer every call that still waits: this member stops."""
        error = StoppedError()
        for task, call in list(self._running.items()):
            if not task.done():
                call.fail(error.code, error.message)
                task.cancel()


async def _answer(
    serve: Callable[[RequestT, UnaryCall], Awaitable[Message]], request: RequestT, call: UnaryCall
) -> None:
    try:
        response = await serve(request, call)
    except (KvError, RpcError) as error:
        call.fail(error.code, error.message)
    except Exception as error:
        # The caller must not wait for ever because of our bug; the loop's handler logs it.
        call.fail(KvError.code, str(error))
        raise
    else:
        call.reply(response.SerializeToString())
