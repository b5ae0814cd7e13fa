"""What went wrong, as a sentence and an exit status that an operator can act on."""

import errno
from typing import NamedTuple

from kvnode.rpc.listen import ListenError
from kvnode.server.errors import ExitCode, StartError
from kvnode.server.tls import CertificateError
from kvnode.storage.data_dir import (
    DataDirectoryDamagedError,
    DataDirectoryForeignError,
    DataDirectoryLostError,
    DataDirectoryRemovedError,
)
from kvnode.storage.errors import StorageCorruptError, StorageError

__all__ = ["Failure", "ListenFlagError", "explain"]


class ListenFlagError(Exception):
    """An address that a flag names can't be listened on."""

    def __init__(self, flag: str, error: ListenError) -> None:
        super().__init__(f"{error} (--{flag})")
        self.is_in_use = error.is_in_use


class Failure(NamedTuple):
    """How a run ended."""

    sentence: str
    exit_code: int
    #: True: nobody foresaw it, so that the traceback belongs into the log.
    is_unexpected: bool = False


_EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (CertificateError, ExitCode.CONFIG),
    (DataDirectoryForeignError, ExitCode.FOREIGN),
    (DataDirectoryRemovedError, ExitCode.REMOVED),
    (DataDirectoryLostError, ExitCode.DAMAGED),
    (DataDirectoryDamagedError, ExitCode.DAMAGED),
    (StorageCorruptError, ExitCode.DAMAGED),
    (StorageError, ExitCode.OTHER),
)


def explain(error: BaseException) -> Failure:
    """Return what to say and which status to exit with."""
    if isinstance(error, BaseExceptionGroup):
        return explain(error.exceptions[0])
    if isinstance(error, StartError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, ListenFlagError):
        return Failure(str(error), ExitCode.ADDRESS_IN_USE if error.is_in_use else ExitCode.OTHER)
    for kind, exit_code in _EXIT_CODES:
        if isinstance(error, kind):
            return Failure(str(error), exit_code)
    if isinstance(error, OSError):
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL) and error.filename:
            # The listeners for clients raise ``ListenFlagError``; what is left is that for members.
            is_in_use = error.errno == errno.EADDRINUSE
            reason = "address already in use" if is_in_use else error.strerror
            return Failure(
                f"cannot listen on {error.filename}: {reason} (--listen-peer-urls)",
                ExitCode.ADDRESS_IN_USE if is_in_use else ExitCode.OTHER,
            )
        return Failure(
            f"{error.filename}: {error.strerror}" if error.filename else str(error), ExitCode.OTHER
        )
    return Failure(f"internal error: {type(error).__name__}: {error}", ExitCode.OTHER, is_unexpected=True)
