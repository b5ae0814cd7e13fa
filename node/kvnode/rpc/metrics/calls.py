"""Calls of clients, as go-grpc-prometheus counts them."""

from collections.abc import Iterator

from kvnode.rpc.metrics.text import Family, Labels, histograms, labelled
from kvnode.rpc.stats import MethodStats, RpcStats

__all__ = ["call_metrics"]

#: Names of the status codes as Go's gRPC spells them, by number.
_CODE_NAMES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)


def call_metrics(stats: RpcStats, *, is_extensive: bool) -> Iterator[Family]:
    """Yield the families; durations only if they are asked for, as in etcd."""
    methods = [(_labels(method), method) for method in stats.all_methods()]
    yield labelled(
        "counter",
        "grpc_server_started_total",
        "RPCs begun.",
        [(on, method.started) for on, method in methods],
    )
    # Ordered as Go's library does it: by name of the label.
    yield labelled(
        "counter",
        "grpc_server_handled_total",
        "RPCs ended.",
        [
            ((("grpc_code", _CODE_NAMES[code]), *on), count)
            for on, method in methods
            for code, count in enumerate(method.handled)
            if count or code == 0
        ],
    )
    if is_extensive:
        yield histograms(
            "grpc_server_handling_seconds",
            "Time from request to the end of the answer.",
            {on: method.duration_s for on, method in methods},
        )


def _labels(method: MethodStats) -> Labels:
    return (("grpc_method", method.method), ("grpc_service", method.service), ("grpc_type", method.kind))
