"""Standard output as bytes, because keys and values need not be text."""

import sys

__all__ = ["flush", "is_terminal", "write_bytes", "write_line", "write_raw"]


def write_line(text: str) -> None:
    """A line of text."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")


def write_bytes(data: bytes) -> None:
    """Raw bytes and a line break."""
    sys.stdout.buffer.write(data + b"\n")


def write_raw(data: bytes) -> None:
    """Bytes and nothing else."""
    sys.stdout.buffer.write(data)


def flush() -> None:
    """Let a reader at the other end of a pipe see what was written so far."""
    sys.stdout.buffer.flush()


def is_terminal() -> bool:
    return sys.stdout.isatty()
