"""endpoint status, health, hashkv: each asks every endpoint by itself, all at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import CommandFailedError, session
from kvclient.cli.values import REVISION
from kvclient.client import Client
from kvclient.errors import ConnectionFailedError, KvClientError
from kvclient.output.printer import EndpointHash, EndpointHealth, EndpointStatus

__all__ = ["chosen_endpoints", "endpoint"]

T = TypeVar("T")

_IS_WHOLE_CLUSTER = "kvclient.is_whole_cluster"
_CLUSTER_HELP = "Every member's endpoints, not only those given."


def _remember_cluster(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_IS_WHOLE_CLUSTER] = True


# The option may stand before the subcommand as well as after it.
endpoint = LazyGroup(
    "endpoint",
    help="Ask single members: status, health, hashes.",
    params=[
        click.Option(
            ["--cluster"], is_flag=True, expose_value=False, callback=_remember_cluster, help=_CLUSTER_HELP
        )
    ],
)
_cluster_option = click.option(
    "--cluster", is_flag=True, expose_value=False, callback=_remember_cluster, help=_CLUSTER_HELP
)


@endpoint.command("status")
@_cluster_option
def status() -> None:
    """Version, size, leader and progress of each endpoint."""

    async def ask(client: Client) -> None:
        endpoints = await _endpoints(client)
        answers = await _ask_each(endpoints, client.maintenance.status)
        reports = [
            EndpointStatus(name, answer) for name, answer in answers if not isinstance(answer, KvClientError)
        ]
        session().printer(for_people="table").endpoint_status(reports)
        _report_failures("get the status of", answers, with_reason=False)

    session().run(ask)


@endpoint.command("hashkv")
@_cluster_option
@click.option("--rev", type=REVISION, default=0, help="Up to this revision; 0 for everything.")
def hashkv(rev: int) -> None:
    """Hash of each endpoint's history; equal on members that agree."""

    async def ask(client: Client) -> None:
        endpoints = await _endpoints(client)
        answers = await _ask_each(endpoints, lambda name: client.maintenance.hash_kv(name, revision=rev))
        reports = [
            EndpointHash(name, answer) for name, answer in answers if not isinstance(answer, KvClientError)
        ]
        session().printer(for_people="table").endpoint_hashes(reports)
        _report_failures("get the hash of", answers, with_reason=True)

    session().run(ask)


@endpoint.command("health")
@_cluster_option
def health() -> None:
    """Whether each endpoint serves a linearizable read and raises no alarm."""

    async def ask(client: Client) -> None:
        endpoints = await _endpoints(client)
        reports = await asyncio.gather(*(_health_of(name) for name in endpoints))
        session().printer(for_people="table").endpoint_health(reports)
        if not all(report.is_healthy for report in reports):
            raise CommandFailedError("unhealthy cluster")

    session().run(ask)


async def chosen_endpoints(client: Client, *, is_whole_cluster: bool) -> list[str]:
    """The endpoints given, or the client URLs of every member that has started."""
    if not is_whole_cluster:
        return client.endpoints
    # Not linearizable: to look at a cluster without quorum is what these commands are for.
    response = await client.cluster.list_members(is_linearizable=False)
    return [url for member in response.members for url in member.clientURLs]


async def _endpoints(client: Client) -> list[str]:
    is_whole_cluster = bool(click.get_current_context().meta.get(_IS_WHOLE_CLUSTER))
    return await chosen_endpoints(client, is_whole_cluster=is_whole_cluster)


async def _ask_each(
    endpoints: Sequence[str], ask: Callable[[str], Awaitable[T]]
) -> list[tuple[str, T | KvClientError]]:
    async def one(name: str) -> tuple[str, T | KvClientError]:
        try:
            return name, await ask(name)
        except KvClientError as error:
            return name, error

    return await asyncio.gather(*(one(name) for name in endpoints))


async def _health_of(name: str) -> EndpointHealth:
    """Ask one member by a client of its own, so that no other member answers for it."""
    started_s = time.monotonic()
    failure = ""
    async with session().client_of(name) as client:
        try:
            try:
                await client.get("health")
            except KvClientError as error:
                # The member decided this by itself, with a quorum: it works.
                if error.code is not StatusCode.PERMISSION_DENIED:
                    raise
            failure = await _alarm_failure(client)
        except ConnectionFailedError as error:
            failure = error.failures[0][1]
        except KvClientError as error:
            failure = error.text
    return EndpointHealth(name, not failure, time.monotonic() - started_s, failure)


async def _alarm_failure(client: Client) -> str:
    try:
        raised = await client.maintenance.alarms()
    except KvClientError:
        return "Unable to fetch the alarm list"
    if not raised.alarms:
        return ""
    return "Active Alarm(s): " + "".join(f"{rpc_pb2.AlarmType.Name(a.alarm)} " for a in raised.alarms)


def _report_failures(what: str, answers: Sequence[tuple[str, object]], *, with_reason: bool) -> None:
    reason = ""
    for name, failure in answers:
        if isinstance(failure, KvClientError):
            reason = failure.failures[0][1] if isinstance(failure, ConnectionFailedError) else failure.text
            click.echo(f"Failed to {what} endpoint {name} ({reason})", err=True)
    if reason:
        raise CommandFailedError(reason if with_reason else "")
