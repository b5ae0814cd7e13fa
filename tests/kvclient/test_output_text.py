"""The text forms that etcdctl's users know."""

import pytest
from kvclient.output.go_text import duration, quoted, size
from kvclient.output.gojson import dumps, message_fields
from kvnode.pb import kv_pb2, rpc_pb2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (10, "10 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (20480, "20 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (2147483648, "2.1 GB"),
    ],
)
def test_sizes_are_decimal_with_two_digits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.000000005, "5ns"),
        (0.0000015, "1.5µs"),
        (0.003406955, "3.406955ms"),
        (1.5, "1.5s"),
        (120, "2m0s"),
        (3661.25, "1h1m1.25s"),
    ],
)
def test_durations_look_like_gos(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_quoted_bytes_escape_what_does_not_print() -> None:
    assert quoted(b'a"b\\\n\x00\xff\xc3\xa9') == '"a\\"b\\\\\\n\\x00\\xffé"'


def test_json_leaves_zeroes_out_and_keeps_wire_names() -> None:
    response = rpc_pb2.TxnResponse(
        header=rpc_pb2.ResponseHeader(cluster_id=2**64 - 1, revision=3),
        responses=[
            rpc_pb2.ResponseOp(
                response_range=rpc_pb2.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"k", value=b"\xff")], count=1)
            ),
            rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse()),
        ],
    )
    assert message_fields(response) == {
        "header": {"cluster_id": 2**64 - 1, "revision": 3},
        "responses": [
            {"Response": {"response_range": {"kvs": [{"key": "aw==", "value": "/w=="}], "count": 1}}},
            {"Response": {"response_put": {}}},
        ],
    }


def test_json_escapes_html_characters_like_go() -> None:
    assert dumps({"url": "a<b>&"}) == '{"url":"a\\u003cb\\u003e\\u0026"}'
