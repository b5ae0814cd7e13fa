"""`kvoperator run` is the operator, `kvoperator agent` its hands in Jobs and init containers."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="kvoperator", description="Kubernetes operator of kvclusters.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="keep all KVClusters; settings come from the environment")
    run.set_defaults(run=lambda _args: _run())
    from kvoperator.agent.main import add_commands

    add_commands(commands.add_parser("agent", help="take or restore one snapshot"))
    args = parser.parse_args(argv)
    code: int = args.run(args)
    return code


def _run() -> int:
    from kvoperator.clients.config import KubeConfigError
    from kvoperator.logs import configure_logging
    from kvoperator.run import run
    from kvoperator.settings import SettingsError, settings_from

    try:
        settings = settings_from()
        configure_logging(settings.log_level, settings.log_format)
        return asyncio.run(run(settings))
    except (SettingsError, KubeConfigError) as error:
        print(f"kvoperator: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
