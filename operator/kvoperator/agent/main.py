"""The agent's command line; its last words are one JSON object in the container's termination message."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvoperator.agent.errors import AgentError
from kvoperator.agent.places import S3Options, place_of

__all__ = ["add_commands"]

_MAX_TEXT = 1024
"""The kubelet keeps 4 KiB of a termination message."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the commands; each sets ``run``, which returns the exit code."""
    commands = parser.add_subparsers(dest="agent_command", required=True)
    snapshot = commands.add_parser("snapshot", help="stream a snapshot to a volume or a bucket")
    snapshot.add_argument("--endpoint", required=True, help="client URL of the cluster")
    snapshot.add_argument("--target", required=True, help="file:///path or s3://bucket/key")
    snapshot.add_argument("--cluster-id", default="", help="hexadecimal id that the cluster must have")
    snapshot.add_argument("--tls-dir", type=Path, help="folder with ca.crt, tls.crt and tls.key")
    snapshot.set_defaults(run=lambda args: _report(lambda: _snapshot(args)))

    restore = commands.add_parser("restore", help="make a data directory from a snapshot, if there is none")
    restore.add_argument("--source", required=True, help="file:///path or s3://bucket/key")
    restore.add_argument("--sha256", default="", help="checksum that the file must have")
    restore.add_argument("--data-dir", required=True, type=Path)
    restore.add_argument("--name", required=True)
    restore.add_argument("--initial-cluster", required=True)
    restore.add_argument("--initial-cluster-token", required=True)
    restore.add_argument("--initial-advertise-peer-urls", required=True)
    restore.set_defaults(run=lambda args: _report(lambda: _restore(args)))

    for command in (snapshot, restore):
        command.add_argument("--s3-endpoint", default=None)
        command.add_argument("--s3-region", default=None)
        command.add_argument("--s3-addressing-style", default="auto", choices=("auto", "path", "virtual"))


def _s3_options(args: argparse.Namespace) -> S3Options:
    return S3Options(
        endpoint=args.s3_endpoint, region=args.s3_region, addressing_style=args.s3_addressing_style
    )


def _snapshot(args: argparse.Namespace) -> dict[str, Any]:
    from kvoperator.agent.snapshot import take_snapshot

    place = place_of(args.target, _s3_options(args))
    cluster_id = int(args.cluster_id, 16) if args.cluster_id else None
    result = asyncio.run(
        take_snapshot(args.endpoint, place, cluster_id=cluster_id, tls_directory=args.tls_dir)
    )
    return result.to_json()


def _restore(args: argparse.Namespace) -> dict[str, Any]:
    from kvoperator.agent.restore import RestoreArguments, restore_snapshot

    return restore_snapshot(
        place_of(args.source, _s3_options(args)),
        RestoreArguments(
            data_dir=args.data_dir,
            name=args.name,
            initial_cluster=args.initial_cluster,
            initial_cluster_token=args.initial_cluster_token,
            initial_advertise_peer_urls=args.initial_advertise_peer_urls,
            sha256=args.sha256 or None,
        ),
    )


def _report(run: Callable[[], dict[str, Any]]) -> int:
    """Run, and tell the result where the kubelet and a person look for it."""
    try:
        result, code = run(), 0
    except AgentError as error:
        result, code = {"error": str(error)[:_MAX_TEXT]}, 1
    except Exception as error:
        # The last words of a bug are better than none.
        result, code = {"error": f"{type(error).__name__}: {error}"[:_MAX_TEXT]}, 1
    text = json.dumps(result, sort_keys=True)
    print(text, file=sys.stderr if code else sys.stdout, flush=True)
    log = Path(os.environ.get("KVOPERATOR_TERMINATION_LOG", "/dev/termination-log"))
    if log.exists():
        log.write_text(text)
    return code
