"""Every method, wrapped so that the audit log hears of each call; without a log nothing is wrapped."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

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
from kvnode.api.wrapped_call import WrappedCall
from kvnode.server.audit_log import HEADER_BYTES, AuditLog, AuditRecord
from kvnode.status import KvError, StatusCode

__all__ = ["AuditLogFullError", "audited"]

#: Asked by probes all the time, and about nobody's data.
_UNTOLD = "/grpc.health."


class AuditLogFullError(KvError):
    """No record of the request could be kept."""

    code = StatusCode.RESOURCE_EXHAUSTED
    text = "audit log is full"


def audited(gate: Gate, log: AuditLog, method: Method) -> Method:
    """Return the method, each call of which is told to ``log``."""
    if method.path.startswith(_UNTOLD):
        return method
    if isinstance(method, UnaryMethod):
        return method._replace(handler=_unary(gate, log, method.path, method.handler))
    if method.push is not None:
        method = method._replace(push=_push(gate, log, method.path, method.push))
    return method._replace(handler=_stream(gate, log, method.path, method.handler))


def _user_of(gate: Gate, call: Call) -> str | None:
    """Return as whom a call is made; None while auth is off, and for whoever shows nothing that is good."""
    try:
        caller = gate.caller(call)
    except KvError:
        return None
    return caller.user if caller is not None else None


def _record(
    gate: Gate, path: str, call: Call, event: str, request: bytes = b"", code: StatusCode | None = None
) -> AuditRecord:
    return AuditRecord(
        time.time(),
        _user_of(gate, call),
        call.common_name,
        call.peer,
        path,
        event,
        request,
        None,
        code.name if code is not None else None,
        b"",
    )


def _unary(gate: Gate, log: AuditLog, path: str, handler: UnaryHandler) -> UnaryHandler:
    def serve(payload: bytes, call: UnaryCall) -> None:
        if log.admits():
            handler(payload, _AuditedCall(gate, log, path, payload, call))
        else:
            call.fail(AuditLogFullError.code, AuditLogFullError().message)

    return serve


def _stream(gate: Gate, log: AuditLog, path: str, handler: StreamHandler) -> StreamHandler:
    async def serve(call: StreamCall) -> None:
        if not log.admits():
            raise AuditLogFullError
        log.put(_record(gate, path, call, "stream"))
        try:
            await handler(_AuditedStream(gate, log, path, call))
        except (KvError, RpcError) as error:
            log.put(_record(gate, path, call, "stream", code=error.code))
            raise

    return serve


def _push(gate: Gate, log: AuditLog, path: str, open_stream: PushHandler) -> PushHandler:
    def open_audited(call: PushedCall) -> Receiver:
        if not log.admits():
            raise AuditLogFullError
        try:
            receiver = open_stream(call)
        except (KvError, RpcError) as error:
            log.put(_record(gate, path, call, "stream", code=error.code))
            raise
        log.put(_record(gate, path, call, "stream"))
        return receiver

    return open_audited


class _AuditedCall(WrappedCall[UnaryCall]):
    """A unary call that is told when it ends, however it does."""

    __slots__ = ("_begun_s", "_callback", "_clock_s", "_gate", "_is_told", "_log", "_path",
                 "_payload", "_user")  # fmt: skip

    def __init__(self, gate: Gate, log: AuditLog, path: str, payload: bytes, call: UnaryCall) -> None:
        self._gate = gate
        self._log = log
        self._path = path
        self._payload = payload
        super().__init__(call)
        self._callback: Callable[[], object] | None = None
        self._is_told = False
        self._begun_s = time.time()
        self._clock_s = time.perf_counter()
        # Now: what the call does may end the token that it shows.
        self._user = _user_of(gate, call)
        call.on_cancel(self._cancelled)

    def reply(self, payload: bytes) -> None:
        self._tell(StatusCode.OK, payload[:HEADER_BYTES])
        self._call.reply(payload)

    def fail(self, code: StatusCode, message: str) -> None:
        self._tell(code, b"")
        self._call.fail(code, message)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        if self._call.is_cancelled:
            callback()
        else:
            self._callback = callback

    def _cancelled(self) -> None:
        # It may still take effect; whether it did, nobody has waited to hear.
        self._tell(StatusCode.CANCELLED, b"")
        if self._callback is not None:
            self._callback()

    def _tell(self, code: StatusCode, answer: bytes) -> None:
        if self._is_told:
            return
        self._is_told = True
        user = self._user
        if user is None and token_of(self._call) is not None:
            # A member that had not heard of the token yet may have by now.
            user = _user_of(self._gate, self._call)
        self._log.put(
            AuditRecord(
                self._begun_s,
                user,
                self._call.common_name,
                self._call.peer,
                self._path,
                "call",
                self._payload,
                time.perf_counter() - self._clock_s,
                code.name,
                answer,
            )
        )


class _AuditedStream(WrappedCall[StreamCall]):
    """A stream whose requests are told as they come."""

    __slots__ = ("_gate", "_log", "_path")

    def __init__(self, gate: Gate, log: AuditLog, path: str, call: StreamCall) -> None:
        self._gate = gate
        self._log = log
        self._path = path
        super().__init__(call)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for payload in self._call:
            if self._path != "/etcdserverpb.Lease/LeaseKeepAlive":
                self._log.put(_record(self._gate, self._path, self._call, "message", payload))
            yield payload

    async def write(self, payload: bytes, shared: bytes = b"") -> None:
        await self._call.write(payload, shared)

    def try_write(self, payload: bytes, shared: bytes = b"") -> bool:
        return self._call.try_write(payload, shared)
