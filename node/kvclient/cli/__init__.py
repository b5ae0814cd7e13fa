"""`kvctl`: the command line.

Each command lives in a module that is imported only when it runs, and grpc and rich only
where they are used: starting Python is most of what a short command costs.
"""

from kvclient.cli.app import main

__all__ = ["main"]
