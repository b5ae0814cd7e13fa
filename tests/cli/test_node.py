"""The composition: listeners first, then the member, then service, then an orderly end."""

import asyncio
import errno
import os
import signal
import socket

import grpc
import pytest
from kvnode.cli import node
from kvnode.cli.failures import ListenFlagError, explain
from kvnode.pb import rpc_pb2 as pb
from kvnode.server.config import NodeConfig, parse_urls
from kvnode.server.errors import ExitCode, StartError
from kvnode.server.tls import CertificateError
from kvnode.storage.data_dir import (
    DataDirectoryForeignError,
    DataDirectoryLockedError,
    DataDirectoryLostError,
    DataDirectoryRemovedError,
)
from kvnode.storage.errors import StorageCorruptError
from kvtest.local_member import LocalMember, local_config
from kvtest.ports import free_port
from kvtest.served_member import Client


class StartedMember(LocalMember):
    """A local member with the ends of a life."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.failure_of_member: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.stops = 0

    async def ready(self) -> None:
        pass

    async def hand_over(self) -> None:
        pass

    async def failed(self) -> BaseException:
        return await asyncio.shield(self.failure_of_member)

    async def stop(self) -> None:
        self.stops += 1


class Running:
    """``run_node`` as a task, with the member it started."""

    def __init__(self, config: NodeConfig, client_port: int, http_port: int) -> None:
        self.config = config
        self.client = Client(f"127.0.0.1:{client_port}")
        self.http_port = http_port
        self.members: list[StartedMember] = []
        self.task: asyncio.Task[None] | None = None

    async def start_member(self, config: NodeConfig) -> StartedMember:
        self.members.append(StartedMember(config))
        return self.members[-1]

    def run(self) -> None:
        self.task = asyncio.get_running_loop().create_task(node.run_node(self.config))

    async def is_serving(self) -> None:
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            try:
                await self.client.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a"), pb.PutResponse)
                return
            except grpc.aio.AioRpcError:
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def http_status(self, path: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = await reader.read()
        writer.close()
        return int(head.split()[1])

    async def ended(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(10):
            await self.task


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    client_port, http_port = free_port(), free_port()
    config = local_config(
        listen_client_urls=parse_urls(f"http://127.0.0.1:{client_port}"),
        listen_metrics_urls=parse_urls(f"http://127.0.0.1:{http_port}"),
    )
    run = Running(config, client_port, http_port)
    monkeypatch.setattr(node, "start_member", run.start_member)
    yield run
    await run.client.channel.close()
    if run.task is not None and not run.task.done():
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_member_in_good_order(running: Running, number: signal.Signals) -> None:
    running.run()
    await running.is_serving()
    assert await running.http_status("/readyz") == 200
    stream = running.client.stream("/etcdserverpb.Watch/Watch")
    await stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a")).SerializeToString())
    await stream.read()
    os.kill(os.getpid(), number)
    await running.ended()
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    assert [member.stops for member in running.members] == [1]


async def test_a_member_that_cannot_go_on_is_stopped_and_its_reason_raised(running: Running) -> None:
    running.run()
    await running.is_serving()
    reason = StartError("removed", exit_code=ExitCode.REMOVED)
    running.members[0].failure_of_member.set_result(reason)
    with pytest.raises(StartError) as raised:
        await running.ended()
    assert raised.value is reason
    assert running.members[0].stops == 1


async def test_a_starting_member_is_alive_but_not_ready_and_can_be_stopped(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = asyncio.Event()

    async def never(config: NodeConfig) -> StartedMember:
        starting.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(node, "start_member", never)
    running.run()
    async with asyncio.timeout(10):
        await starting.wait()
    assert await running.http_status("/livez") == 200
    assert await running.http_status("/readyz") == 503
    os.kill(os.getpid(), signal.SIGTERM)
    await running.ended()


@pytest.mark.parametrize("flag", ["listen-client-urls", "listen-metrics-urls", "listen-client-http-urls"])
async def test_a_port_in_use_names_the_address_and_the_flag_before_data_are_touched(
    running: Running, flag: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        running.config = local_config(
            **{"listen_client_urls": parse_urls(f"http://127.0.0.1:{free_port()}")}
            | {flag.replace("-", "_"): parse_urls(url)}
        )
        running.run()
        with pytest.raises(ListenFlagError) as raised:
            await running.ended()
    failure = explain(raised.value)
    assert failure.sentence == f"cannot listen on {url}: address already in use (--{flag})"
    assert failure.exit_code == ExitCode.ADDRESS_IN_USE
    assert running.members == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        pytest.param(StartError("x"), 1, id="start"),
        pytest.param(StartError("x", exit_code=ExitCode.LOST), 10, id="disk-lost"),
        pytest.param(DataDirectoryForeignError("/d", "x"), 11, id="foreign-data"),
        pytest.param(DataDirectoryRemovedError("/d", "x"), 12, id="removed"),
        pytest.param(DataDirectoryLostError("/d", "x"), 13, id="data-missing"),
        pytest.param(StorageCorruptError("/d", "x"), 13, id="damage"),
        pytest.param(DataDirectoryLockedError("/d", "x"), 1, id="locked"),
        pytest.param(
            OSError(errno.EADDRINUSE, "Address already in use", "http://127.0.0.1:1"),
            14,
            id="bound-elsewhere",
        ),
        pytest.param(CertificateError("x"), 2, id="certificate"),
        pytest.param(ZeroDivisionError("x"), 1, id="bug"),
        pytest.param(ExceptionGroup("g", [StorageCorruptError("/d", "x")]), 13, id="grouped"),
    ],
)
def test_every_failure_has_its_exit_status(error: Exception, exit_code: int) -> None:
    failure = explain(error)
    assert failure.exit_code == exit_code
    assert failure.is_unexpected == isinstance(error, ZeroDivisionError)


def test_a_peer_port_in_use_names_the_address_and_the_flag() -> None:
    failure = explain(OSError(errno.EADDRINUSE, "Address already in use", "http://127.0.0.1:2380"))
    assert failure.sentence == (
        "cannot listen on http://127.0.0.1:2380: address already in use (--listen-peer-urls)"
    )
