"""A member that lags behind waits for the token that it is shown, instead of refusing it.

A client may log in at one member and go on at another, which has not applied the login yet.  The token
says where in the log it was made; the quorum says whether the log is that long, so that an invented one
costs a round of the quorum and no more.
"""

from __future__ import annotations

from kvnode.api.gate import Gate, token_of
from kvnode.api.port import (
    Call,
    Method,
    RpcError,
    StreamCall,
    StreamHandler,
    UnaryCall,
    UnaryHandler,
    UnaryMethod,
)
from kvnode.api.pushed import PushedCall, PushHandler, Receiver
from kvnode.status import KvError

__all__ = ["waiting_for_token"]


def waiting_for_token(gate: Gate, method: Method) -> Method:
    """Return the method with that wait in front; without auth it is one look at a flag."""
    if isinstance(method, UnaryMethod):
        return method._replace(handler=_unary(gate, method.handler))
    push = method.push
    if push is not None:
        method = method._replace(push=_push(gate, push))
    return method._replace(handler=_stream(gate, method.handler))


def _is_ahead(gate: Gate, call: Call) -> bool:
    token = token_of(call)
    return token is not None and gate.member.tokens.index_of(token) > gate.member.applied_index


def _unary(gate: Gate, handler: UnaryHandler) -> UnaryHandler:
    member = gate.member

    def serve(payload: bytes, call: UnaryCall) -> None:
        if not member.applier.auth.is_enabled or not _is_ahead(gate, call):
            handler(payload, call)
            return

        def confirmed(error: KvError | None) -> None:
            if error is None:
                handler(payload, call)
            else:
                call.fail(error.code, error.message)

        member.linearizable(confirmed)

    return serve


def _stream(gate: Gate, handler: StreamHandler) -> StreamHandler:
    async def serve(call: StreamCall) -> None:
        if gate.member.applier.auth.is_enabled and _is_ahead(gate, call):
            await gate.member.confirm_linearizable()
        await handler(call)

    return serve


def _push(gate: Gate, open_stream: PushHandler) -> PushHandler:
    def open_when_known(call: PushedCall) -> Receiver:
        if not gate.member.applier.auth.is_enabled or not _is_ahead(gate, call):
            return open_stream(call)
        return _LateReceiver(gate, open_stream, call)

    return open_when_known


class _LateReceiver:
    """Keeps what a client sends until its token is known here; the client's window bounds that."""

    def __init__(self, gate: Gate, open_stream: PushHandler, call: PushedCall) -> None:
        self._open_stream = open_stream
        self._call = call
        self._receiver: Receiver | None = None
        self._payloads: list[bytes] = []
        self._has_ended = False
        self._error: KvError | RpcError | None = None
        self._is_closed = False
        gate.member.linearizable(self._confirmed)

    def _confirmed(self, error: KvError | None) -> None:
        if self._is_closed:
            return
        try:
            if error is not None:
                raise error
            receiver = self._receiver = self._open_stream(self._call)
        except (KvError, RpcError) as refused:
            self._call.fail(refused.code, refused.message)
            return
        for payload in self._payloads:
            receiver.message(payload)
        self._payloads.clear()
        if self._error is not None:
            receiver.unreadable(self._error)
        elif self._has_ended:
            receiver.ended()

    def message(self, payload: bytes) -> None:
        if self._receiver is not None:
            self._receiver.message(payload)
        else:
            self._payloads.append(payload)

    def ended(self) -> None:
        self._has_ended = True
        if self._receiver is not None:
            self._receiver.ended()

    def unreadable(self, error: KvError | RpcError) -> None:
        self._error = error
        if self._receiver is not None:
            self._receiver.unreadable(error)

    def closed(self) -> None:
        self._is_closed = True
        if self._receiver is not None:
            self._receiver.closed()
