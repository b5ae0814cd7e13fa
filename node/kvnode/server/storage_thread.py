"""The one thread that waits for the disk.

LevelDB lets go of the interpreter while it syncs, so the event loop goes on meanwhile.  One
thread keeps writes in order; a plain queue and one wake-up per job keep the hand-over short.
"""

import asyncio
import queue
import threading
from collections.abc import Callable

__all__ = ["StorageThread"]

Job = tuple[Callable[[], object], Callable[[object], None]]


class StorageThread:
    """Runs jobs one after another and reports each to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        """Run ``work`` in the thread, then ``done(result or exception)`` in the event loop."""
        self._jobs.put((work, done))

    async def run(self, work: Callable[[], object]) -> object:
        """Run ``work`` in the thread and wait for its result; raises what it raised."""
        future: asyncio.Future[object] = self._loop.create_future()

        def finished(result: object) -> None:
            if future.done():
                return
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(work, finished)
        return await future

    def close(self) -> None:
        """Finish the jobs that are queued, then end; blocks until then."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            try:
                result = work()
            except BaseException as error:
                result = error
            try:
                self._loop.call_soon_threadsafe(done, result)
            except RuntimeError:
                return  # the loop is closed: nobody is left to tell
