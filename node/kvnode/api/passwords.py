"""Passwords, hashed and compared where the time it takes holds up nobody.

bcrypt takes tens of milliseconds on purpose and lets go of the interpreter's lock meanwhile, so threads of
its own are enough.  They are few, and what waits for them is bounded: a storm of logins delays logins.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from kvnode.server.errors import StoppedError, TooManyRequestsError
from kvnode.status import KvError

__all__ = ["PasswordTooLongError", "Passwords"]

ResultT = TypeVar("ResultT")

#: What bcrypt looks at; a longer password would be cut off without a word.
MAX_PASSWORD_BYTES: Final = 72

#: Some ten seconds of work at the default cost: what waits longer times out anyway.
_LIMIT_COUNT: Final = 256


class PasswordTooLongError(KvError):
    """bcrypt would not look at all of it."""

    text = f"bcrypt: password length exceeds {MAX_PASSWORD_BYTES} bytes"

    @property
    def message(self) -> str:
        """The raw text: etcd sends this one without its prefix."""
        return str(self.args[0])


class Passwords:
    """Hashes passwords and compares them."""

    def __init__(self, cost: int) -> None:
        """``cost`` is the logarithm of the work: each step doubles it."""
        self._cost = cost
        #: Made when first needed.
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._is_closed = False
        #: A hash for those who have none.
        self._nobody: bytes | None = None

    async def hashed(self, password: str) -> bytes:
        """Return the hash of a new password.

        Raises:
            PasswordTooLongError: above 72 bytes.
            TooManyRequestsError: too many passwords wait already.
        """
        data = password.encode()
        if len(data) > MAX_PASSWORD_BYTES:
            raise PasswordTooLongError
        return await self._run(lambda: _hash(data, self._cost))

    async def matches(self, password: str, password_hash: bytes | None) -> bool:
        """Whether a password is the one that was hashed.

        Without a hash the answer is no, and takes as long as any: who asks does not learn by the time
        it takes whether there is such a user.

        Raises:
            TooManyRequestsError: too many passwords wait already.
        """
        data = password.encode()
        if password_hash is None:
            if self._nobody is None:
                self._nobody = await self._run(lambda: _hash(b"", self._cost))
            nobody = self._nobody
            await self._run(lambda: _matches(data, nobody))
            return False
        return await self._run(lambda: _matches(data, password_hash))

    def close(self) -> None:
        """Take no more work; what waits fails with StoppedError."""
        self._is_closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        if self._is_closed:
            raise StoppedError
        if self._waiting >= _LIMIT_COUNT:
            raise TooManyRequestsError
        if self._threads is None:
            # At most half of the cores: the rest is for everybody else.
            workers = max(1, (os.cpu_count() or 1) // 2)
            self._threads = ThreadPoolExecutor(workers, thread_name_prefix="kvnode-password")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            if self._is_closed:
                raise StoppedError from None
            raise
        finally:
            self._waiting -= 1


def _hash(password: bytes, cost: int) -> bytes:
    # Imported where it is first needed: a start need not wait for it.
    import bcrypt

    return bcrypt.hashpw(password, bcrypt.gensalt(cost))


def _matches(password: bytes, password_hash: bytes) -> bool:
    import bcrypt

    try:
        is_same = bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], password_hash)
    except ValueError:
        return False  # no hash at all, such as that of an empty password
    return is_same and len(password) <= MAX_PASSWORD_BYTES
