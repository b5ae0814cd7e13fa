"""Log lines as etcd writes them: one JSON object each, on standard error.

Code logs a constant message and puts what varies beside it:
``logger.info("became leader", extra={"term": term})``.  Every extra becomes a field of the line.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from kvnode.server.config import LogFormat, LogLevel, LogRotation

__all__ = ["configure"]

_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARN: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.PANIC: logging.CRITICAL,
    LogLevel.FATAL: logging.CRITICAL,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
#: What every record has; whatever else it has came by ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    level: LogLevel,
    log_format: LogFormat,
    outputs: Sequence[str | TextIO] = ("stderr",),
    rotation: LogRotation | None = None,
) -> None:
    """Send all log lines of the process to every one of ``outputs``.

    Args:
        level: The least that is logged.
        log_format: Of each line.
        outputs: ``stderr``, ``stdout``, paths of files that are appended to, or open streams.
        rotation: When files are full; None: never.
    Raises:
        OSError: A file can't be written; ``filename`` names it.
    """
    formatter = _JsonFormatter() if log_format is LogFormat.JSON else _ConsoleFormatter()
    handlers = [_handler(output, rotation) for output in outputs]
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    # asyncio reports slow callbacks and TLS handshakes that clients break off: noise below a warning.
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.WARNING))


def _handler(output: str | TextIO, rotation: LogRotation | None) -> logging.Handler:
    if not isinstance(output, str):
        return logging.StreamHandler(output)
    if output in ("stderr", "stdout"):
        return logging.StreamHandler(sys.stdout if output == "stdout" else sys.stderr)
    if rotation is None:
        return logging.FileHandler(output, encoding="utf-8")
    # Few members keep log files, and fewer turn them over.
    from kvnode.server.log_files import RotatingFile

    return RotatingFile(output, rotation)


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.created % 1 * 1_000_000):06d}Z"


def _caller(record: logging.LogRecord) -> str:
    """File and line, with the folder that it lies in."""
    return f"{'/'.join(record.pathname.split('/')[-2:])}:{record.lineno}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "ts": _timestamp(record),
            "logger": record.name,
            "caller": _caller(record),
            "msg": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname.lower())
        text = f"{_timestamp(record)}\t{level}\t{record.name}\t{record.getMessage()}"
        fields = _fields(record)
        if fields:
            text += "\t" + json.dumps(fields, default=str, ensure_ascii=False)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
