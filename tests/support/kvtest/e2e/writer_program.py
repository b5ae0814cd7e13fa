"""The program of the writer's pod: it writes without end and can prove that nothing was lost.

Write number n goes to key ``writer/<n>`` with a value computed from n, and is
repeated until it is acknowledged; only then comes n + 1.  So the acknowledged
writes are exactly 0 to ``acknowledged`` - 1, and each can be checked without
having been remembered.

It speaks the v3 API with nothing but the message classes, so that a fault of
the client library cannot hide one of the server.  Its own HTTP side:

    GET /progress[?restart=1]             what is acknowledged, and the longest pause since the last restart
    GET /verify[?endpoint=E][&count=N]    read back the first N writes, linearizably
"""

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from kvnode.pb import rpc_pb2

PREFIX = "writer/"
INTERVAL_S = 0.01
CALL_TIMEOUT_S = 2.0
PAGE = 1000
CHANNEL_OPTIONS = (
    # A node that lost its power answers nothing, not even a reset: without pings its connection
    # would be believed in for minutes.  Pings more often than every 5 s count as abuse.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Each channel its own connection, so that a new channel means a new choice of member.
    ("grpc.use_local_subchannel_pool", 1),
)


def key(number: int) -> bytes:
    return f"{PREFIX}{number:09d}".encode()


def value(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).hexdigest().encode()


class Connection:
    """One channel with the two calls that are needed."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(f"dns:///{endpoint}", options=CHANNEL_OPTIONS)
        self._put = self._channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=rpc_pb2.PutRequest.SerializeToString,
            response_deserializer=rpc_pb2.PutResponse.FromString,
        )
        self._range = self._channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc_pb2.RangeRequest.SerializeToString,
            response_deserializer=rpc_pb2.RangeResponse.FromString,
        )

    def put(self, number: int) -> int:
        request = rpc_pb2.PutRequest(key=key(number), value=value(number))
        revision: int = self._put(request, timeout=CALL_TIMEOUT_S).header.revision
        return revision

    def page(self, start: int, end: int) -> dict[bytes, bytes]:
        request = rpc_pb2.RangeRequest(key=key(start), range_end=key(end))
        return {entry.key: entry.value for entry in self._range(request, timeout=10).kvs}

    def close(self) -> None:
        self._channel.close()


class Writer:
    """Writes in its own thread; what it has done so far may be read from any."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.acknowledged = 0
        self.revision = 0
        self.faults: list[str] = []
        self.failures = 0
        self.last_error = ""
        self._lock = threading.Lock()
        self._last_acknowledged_s = time.monotonic()
        self._longest_pause_s = 0.0

    def run(self) -> None:
        connection = Connection(self.endpoint)
        while True:
            try:
                revision = connection.put(self.acknowledged)
            except grpc.RpcError as error:
                self.failures += 1
                self.last_error = f"{error.code().name}: {error.details()}"
                connection.close()
                connection = Connection(self.endpoint)
            else:
                self._note(revision)
            time.sleep(INTERVAL_S)

    def _note(self, revision: int) -> None:
        with self._lock:
            if revision <= self.revision:
                self.faults.append(f"write {self.acknowledged} got revision {revision} after {self.revision}")
            now_s = time.monotonic()
            self._longest_pause_s = max(self._longest_pause_s, now_s - self._last_acknowledged_s)
            self._last_acknowledged_s = now_s
            self.revision = revision
            self.acknowledged += 1

    def progress(self, *, restart: bool) -> dict[str, object]:
        """Return what is done; ``restart`` starts measuring the longest pause anew."""
        with self._lock:
            current_s = time.monotonic() - self._last_acknowledged_s
            longest_s = max(self._longest_pause_s, current_s)
            if restart:
                self._longest_pause_s = 0.0
            return {
                "acknowledged": self.acknowledged,
                "revision": self.revision,
                "longest_pause_s": round(longest_s, 3),
                "failures": self.failures,
                "last_error": self.last_error,
                "faults": self.faults[:10],
            }

    def verify(self, endpoint: str, count: int | None) -> dict[str, object]:
        """Read back the first ``count`` acknowledged writes, all that there are if it is None."""
        total = self.acknowledged if count is None else count
        missing: list[int] = []
        wrong: list[int] = []
        connection = Connection(endpoint)
        try:
            for start in range(0, total, PAGE):
                end = min(start + PAGE, total)
                found = self._page(connection, start, end)
                for number in range(start, end):
                    stored = found.get(key(number))
                    if stored is None:
                        missing.append(number)
                    elif stored != value(number):
                        wrong.append(number)
        finally:
            connection.close()
        return {
            "checked": total,
            "missing": len(missing),
            "wrong": len(wrong),
            "examples": missing[:5] + wrong[:5],
        }

    def _page(self, connection: Connection, start: int, end: int) -> dict[bytes, bytes]:
        """Read one page; a member that is going away may fail a read, which is then repeated."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return connection.page(start, end)
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def serve(writer: Writer, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                if url.path == "/progress":
                    body, status = writer.progress(restart="restart" in query), 200
                elif url.path == "/verify":
                    count = int(query["count"]) if "count" in query else None
                    body, status = writer.verify(query.get("endpoint", writer.endpoint), count), 200
                else:
                    body, status = {"error": f"no page {url.path}"}, 404
            except grpc.RpcError as error:
                body, status = {"error": f"{error.code().name}: {error.details()}"}, 503
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Leave the log to errors: one line for each poll says nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    writer = Writer(os.environ["ENDPOINT"])
    threading.Thread(target=writer.run, daemon=True).start()
    serve(writer, int(sys.argv[1]))


if __name__ == "__main__":
    main()
