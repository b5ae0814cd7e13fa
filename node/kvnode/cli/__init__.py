"""The ``kvnode`` command: flags and environment -> configuration -> a running member."""

from kvnode.cli.main import main

__all__ = ["main"]
