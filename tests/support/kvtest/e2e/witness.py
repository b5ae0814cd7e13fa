"""A user of the API server who must notice nothing: calls without end, and a watch that misses no event."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from kvtest.e2e.kubernetes import CommandFailedError, JsonObject, Kubernetes, eventually

PAUSE_S = 0.2
COUNTER = "counter"
FOLLOW = ("get", "configmap", COUNTER, "--watch", "--output=jsonpath={.data.count}{'\\n'}")


class Witness:
    """Counts up in a ConfigMap, reads it back, lists pods, over and over; ``kubectl get -w`` follows."""

    def __init__(self, kubernetes: Kubernetes, log: Path) -> None:
        self.failures: list[str] = []
        self.calls = 0
        self.slowest_s = 0.0
        self._kubernetes = kubernetes
        self._log = log
        self._count = 0
        self._is_over = threading.Event()
        self._calling = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._watch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._kubernetes.apply(_counter(0))
        with self._log.open("wb") as log:
            command = ("kubectl", "--namespace", self._kubernetes.namespace, *FOLLOW)
            self._watch = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()

    def end(self) -> None:
        """Make no more calls."""
        self._is_over.set()
        self._thread.join()

    @contextmanager
    def between_calls(self) -> Iterator[None]:
        """Hold the calls back meanwhile.

        A write that a member had received when it was killed fails at the API server: etcd's client
        library, which may not repeat what may have been done, cannot hide it, whatever the store is.
        """
        with self._calling:
            yield

    def assert_calls(self, more: int = 5) -> None:
        """Wait until further rounds of calls have gone well."""
        target = self._count + more
        eventually(f"{more} rounds of calls", lambda: self.failures or self._count >= target, 60)
        assert self.failures == []

    def assert_saw_everything(self) -> None:
        """Check that the watch, still the same, has shown each count once and in order."""
        expected = [str(count) for count in range(self._count + 1)]
        eventually("the watch has shown the last count", lambda: self._shown()[-1:] == expected[-1:], 30)
        assert self._shown() == expected
        assert self._watch is not None
        assert self._watch.poll() is None

    def notes(self) -> str:
        return f"{self.calls} calls, the slowest {self.slowest_s:.1f} s"

    def _shown(self) -> list[str]:
        return self._log.read_text().splitlines()

    def _run(self) -> None:
        while not self._is_over.wait(PAUSE_S):
            with self._calling:
                if not all(self._call(call) for call in (self._count_up, self._read_back, self._list)):
                    return

    def _count_up(self) -> None:
        self._kubernetes.patch("configmap", COUNTER, {"data": {"count": str(self._count + 1)}})
        self._count += 1

    def _read_back(self) -> None:
        found = self._kubernetes.get("configmap", COUNTER)["data"]["count"]
        if found != str(self._count):
            raise CommandFailedError(("kubectl", "get"), f"{found} was read after {self._count} was written")

    def _list(self) -> None:
        self._kubernetes.list("pods")

    def _call(self, call: Callable[[], object]) -> bool:
        begun_s = time.monotonic()
        try:
            call()
        except CommandFailedError as error:
            self.failures.append(str(error))
        self.calls += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
        return not self.failures


def _counter(count: int) -> JsonObject:
    metadata = {"name": COUNTER}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"count": str(count)}}
