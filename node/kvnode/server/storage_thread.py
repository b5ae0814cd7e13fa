"""The one thread that waits for the disk.

LevelDB lets go of the interpreter while it syncs, so the event loop goes on meanwhile.  One
thread keeps writes in order; a plain queue and one wake-up per job keep the hand-over short.
"""

import asyncio
import queue
import threading
from collections.abc import Callable

__all__ = ["StorageThread"]

Job = tuple[Callable[[], object], Callable[[object], None], int]


class StorageThread:
    """Runs jobs one after another and reports each to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._submitted = 0
        #: Number of the write that is under way; 0: none.  Written by the thread, read by anybody.
        self.job = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run, name=name, daemon=True)
        self._worker.start()

    def submit(
        self, work: Callable[[], object], done: Callable[[object], None], *, is_write: bool = True
    ) -> None:
        """Run ``work`` in the thread, then ``done(result or exception)`` in the event loop.

        ``is_write`` False: it may take long on the best of disks, so that nobody takes it for a stall.
        """
        self._submitted += 1
        self._jobs.put((work, done, self._submitted if is_write else 0))

    async def run(self, work: Callable[[], object]) -> object:
        """Run ``work``, which may take long, in the thread and wait for its result; raises what it raised."""
        future: asyncio.Future[object] = self._loop.create_future()

        def finished(result: object) -> None:
            if future.done():
                return
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(work, finished, is_write=False)
        return await future

    def close(self) -> None:
        """Finish the jobs that are queued, then end; blocks until then."""
        self._jobs.put(None)
        self._worker.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done, self.job = job
            try:
                result = work()
            except BaseException as error:
                result = error
            self.job = 0
            try:
                self._loop.call_soon_threadsafe(done, result)
            except RuntimeError:
                return  # the loop is closed: nobody is left to tell
