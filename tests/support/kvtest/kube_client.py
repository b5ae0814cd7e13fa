"""Plain HTTP clients of a Kubernetes API server: one that keeps its connection, and a watch.

No client library: what the API server says is to be seen as it is, errors included.
"""

import contextlib
import http.client
import json
import ssl
import threading
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from kvtest.apiserver import ApiServer, decoded
from kvtest.processes import wait_until

__all__ = ["Connection", "JsonObject", "ResourceWatch"]

JsonObject = dict[str, Any]

_TIMEOUT_S = 60.0


class Connection:
    """One connection that is kept; to be used by one thread."""

    def __init__(self, api: ApiServer) -> None:
        self._address = urlsplit(api.url).netloc
        self._context = ssl.create_default_context(cafile=str(api.ca_file))
        self._headers = {"Authorization": f"Bearer {api.token}"}
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> tuple[int, JsonObject]:
        """Status code and decoded answer, whatever the code is."""
        headers = {**self._headers, "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        try:
            connection = self._opened()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except BaseException:
            self.close()
            raise
        return answer.status, decoded(text)

    def get(self, path: str, **query: object) -> tuple[int, JsonObject]:
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path)

    def opened_stream(self, path: str) -> http.client.HTTPResponse:
        """The answer of a GET whose body comes in pieces."""
        connection = self._opened()
        connection.request("GET", path, headers=self._headers)
        return connection.getresponse()

    def abort(self) -> None:
        """End the connection from another thread than the one that reads."""
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._address, timeout=_TIMEOUT_S, context=self._context
            )
        return self._connection


class ResourceWatch:
    """A watch on a resource; ``events`` grows in the background, ``is_over`` once the server has ended it."""

    def __init__(self, api: ApiServer, path: str, **query: object) -> None:
        self.events: list[JsonObject] = []
        self.is_over = False
        self._connection = Connection(api)
        self._path = f"{path}?{urlencode({'watch': 'true', **query})}"
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.abort()
        self._thread.join()
        self._connection.close()

    def wait_for(self, count: int, *, what: str, timeout_s: float = _TIMEOUT_S) -> list[JsonObject]:
        """The events, once there are ``count``."""
        wait_until(lambda: len(self.events) >= count or self.is_over, what=what, timeout_s=timeout_s)
        return self.events

    def _read(self) -> None:
        try:
            for line in self._connection.opened_stream(self._path):
                self.events.append(json.loads(line))
        except (OSError, http.client.HTTPException, ValueError):
            pass  # ended in the middle: `is_over` says so, and the events that are missing do
        finally:
            self.is_over = True
