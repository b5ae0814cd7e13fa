"""HTTP/2 and gRPC over it: this project's own transport."""

from kvnode.rpc.http2.server import Http2Server

__all__ = ["Http2Server"]
