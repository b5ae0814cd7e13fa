"""What a transport counts for each method; read by the metrics collector at scrape time."""

from collections.abc import Iterable

from kvnode.counting import Histogram

__all__ = ["MethodStats", "RpcStats"]

#: Prometheus' customary bounds for request durations, in seconds.
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MethodStats:
    """Counters of one method."""

    __slots__ = ("duration_s", "handled", "kind", "method", "service", "started")

    def __init__(self, path: str, kind: str) -> None:
        _, self.service, self.method = path.split("/", 2)
        #: ``unary``, ``server_stream`` or ``bidi_stream``.
        self.kind = kind
        self.started = 0
        #: By status code.
        self.handled = [0] * 17
        self.duration_s = Histogram(DURATION_BUCKETS_S)


class RpcStats:
    """Counters of a transport."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodStats] = {}
        self.received_bytes = 0
        self.sent_bytes = 0

    def of(self, path: str, kind: str) -> MethodStats:
        """Return the counters of a method, made on first use."""
        stats = self.methods.get(path)
        if stats is None:
            stats = self.methods[path] = MethodStats(path, kind)
        return stats

    def all_methods(self) -> Iterable[MethodStats]:
        """Every method known, in a steady order."""
        return [self.methods[path] for path in sorted(self.methods)]
