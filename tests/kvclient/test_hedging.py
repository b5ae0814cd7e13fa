"""A read that is asked of several members at once, when their answers come at the same moment."""

import asyncio
import gc
from typing import Any

import pytest
from kvclient import KvClientError, connection
from kvclient.connection import ConnectionOptions, Connections
from kvclient.endpoints import parse_endpoints
from kvclient.methods import RANGE
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode

URLS = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]


class TogetherConnections(Connections):
    """Each endpoint gives its answer once all have been asked."""

    def __init__(self, answers: dict[str, rpc_pb2.RangeResponse | KvClientError]) -> None:
        endpoints = parse_endpoints(URLS, has_tls=False)
        super().__init__(endpoints, None, timeout_s=30.0, options=ConnectionOptions())
        self._answers = answers
        self._asked = 0
        self._all_asked = asyncio.get_running_loop().create_future()

    async def _attempt(self, chosen: Any, *args: Any) -> Any:
        self._asked += 1
        if self._asked == len(URLS):
            asyncio.get_running_loop().call_soon(self._all_asked.set_result, None)
        await self._all_asked
        answer = self._answers[chosen.endpoint.text]
        if isinstance(answer, KvClientError):
            raise KvClientError(answer.text, code=answer.code)
        return answer


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEDGE_AFTER_S", 0.0)


def late() -> KvClientError:
    return KvClientError("no answer within the timeout", code=StatusCode.DEADLINE_EXCEEDED)


async def test_failures_at_the_same_moment_are_one_failure() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    connections = TogetherConnections({url: late() for url in URLS})
    failure = None
    try:
        await connections.unary(RANGE, rpc_pb2.RangeRequest(key=b"k"))
    except KvClientError as error:
        failure = error.text
    assert failure == "no answer within the timeout"
    gc.collect()  # the traceback is gone by now, and with it what it held
    assert complaints == []


async def test_an_answer_counts_more_than_failures_at_the_same_moment() -> None:
    right = rpc_pb2.RangeResponse(count=7)
    for answering in URLS:
        connections = TogetherConnections({url: right if url == answering else late() for url in URLS})
        assert await connections.unary(RANGE, rpc_pb2.RangeRequest(key=b"k")) == right
