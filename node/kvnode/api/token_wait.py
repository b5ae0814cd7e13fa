"""A member that lags behind waits for the token that it is shown, instead of refusing it.

A client may log in at one member and go on at another, which has not applied the login yet.  The token
says where in the log it was made; the quorum says whether the log is that long, so that an invented one
costs a round of the quorum and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvnode.api.gate import Gate, token_of
from kvnode.api.port import Call, Method, StreamCall, StreamHandler, UnaryCall, UnaryHandler, UnaryMethod

if TYPE_CHECKING:
    from kvnode.status import KvError

__all__ = ["waiting_for_token"]


def waiting_for_token(gate: Gate, method: Method) -> Method:
    """Return the method with that wait in front; without auth it is one look at a flag."""
    if isinstance(method, UnaryMethod):
        return method._replace(handler=_unary(gate, method.handler))
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
