"""grpc.health.v1: whether this member serves at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvnode.api.gate import Access, Gate
from kvnode.api.port import Method, RpcError, StreamCall, StreamMethod, UnaryMethod
from kvnode.api.streams import Streams, parse
from kvnode.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from kvnode.status import StatusCode

__all__ = ["HealthService"]


class HealthService:
    """Knows the one service "": the whole server."""

    def __init__(self, gate: Gate, streams: Streams) -> None:
        self._gate = gate
        self._streams = streams

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        return (
            UnaryMethod(
                "/grpc.health.v1.Health/Check",
                self._gate.coroutine(HealthCheckRequest, self.check, access=Access.ANYBODY),
            ),
            StreamMethod("/grpc.health.v1.Health/Watch", self._streams.guarded(self.watch), "server_stream"),
        )

    async def check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Tell whether the member takes requests."""
        if request.service:
            raise RpcError(StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=self._status())

    async def watch(self, call: StreamCall) -> None:
        """Tell the status now; it changes only by the end of this member, which ends the stream too."""
        async for payload in call:
            request = parse(HealthCheckRequest, payload)
            status = HealthCheckResponse.SERVICE_UNKNOWN if request.service else self._status()
            await call.write(HealthCheckResponse(status=status).SerializeToString())
            await asyncio.Event().wait()

    def _status(self) -> HealthCheckResponse.ServingStatus.ValueType:
        if self._gate.is_stopping:
            return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING
