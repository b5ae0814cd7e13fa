"""JSON into messages and back: by the rules of protobuf, in the words of etcd."""

import base64
import contextlib
import json

import pytest
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st
from kvnode.pb import rpc_pb2 as pb
from kvnode.rpc.json_reader import JsonError, JsonStream, read_message
from kvnode.rpc.json_syntax import syntax_error
from kvnode.rpc.json_writer import write_message, write_status

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.binary(max_size=12)

PUTS = st.builds(pb.PutRequest, key=KEYS, value=KEYS, lease=INT64, prev_kv=st.booleans())
RANGES = st.builds(
    pb.RangeRequest,
    key=KEYS,
    limit=INT64,
    sort_order=st.sampled_from([0, 1, 2]),
    sort_target=st.sampled_from([0, 1, 2, 3, 4]),
    keys_only=st.booleans(),
)
OPS = st.one_of(
    st.builds(pb.RequestOp, request_put=PUTS),
    st.builds(pb.RequestOp, request_range=RANGES),
    st.just(pb.RequestOp()),
)
COMPARES = st.one_of(
    st.builds(pb.Compare, key=KEYS, version=INT64, target=st.sampled_from([0, 1, 2, 3, 4])),
    st.builds(pb.Compare, key=KEYS, value=KEYS),
)
TXNS = st.recursive(
    st.builds(pb.TxnRequest, compare=st.lists(COMPARES, max_size=3), success=st.lists(OPS, max_size=3)),
    lambda txns: st.builds(
        pb.TxnRequest, failure=st.lists(st.builds(pb.RequestOp, request_txn=txns), max_size=2)
    ),
    max_leaves=4,
)
MEMBERS = st.builds(
    pb.Member,
    ID=st.integers(0, 2**64 - 1),
    name=st.text(max_size=8),
    peerURLs=st.lists(st.text(max_size=8), max_size=3),
    isLearner=st.booleans(),
)


@given(TXNS)
def test_what_is_written_is_what_the_library_writes_and_reads_back(message: pb.TxnRequest) -> None:
    text = write_message(message)
    expected = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert json.loads(text) == expected
    assert read_message(text.encode(), pb.TxnRequest()) == message
    # As others write it: with spaces, in the other spelling, with everything that is zero.
    other = json_format.MessageToJson(message, always_print_fields_with_no_presence=True)
    assert read_message(other.encode(), pb.TxnRequest()) == message


@given(MEMBERS)
def test_strings_and_unsigned_numbers_survive(message: pb.Member) -> None:
    assert read_message(write_message(message).encode(), pb.Member()) == message
    assert read_message(json_format.MessageToJson(message).encode(), pb.Member()) == message


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8
)


@given(VALUES, st.integers(0, 200))
@example(0.0, 2)
def test_only_what_is_no_json_has_an_error_of_syntax(value: object, cut: int) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    assert syntax_error(text) is None
    part = text[:cut]
    try:
        json.JSONDecoder().raw_decode(part)
    except ValueError:
        assert syntax_error(part) == "unexpected EOF"
    else:
        # Python ends a number where it stops being one.
        assert syntax_error(part) is None or part[-1] in ".eE+-"


@given(st.text(alphabet='{}[]",:\\u0123456789eE+-.tfnrualse \n', max_size=30))
def test_the_judge_of_syntax_agrees_with_pythons(text: str) -> None:
    try:
        json.JSONDecoder().raw_decode(text.lstrip(" \n"))
    except ValueError:
        # Python ends a number where it stops being one; Go refuses "1." and "1e", as JSON does.
        assert syntax_error(text) is not None
    else:
        assert syntax_error(text) is None or any(mark in text for mark in ".eE")


@given(st.binary(max_size=40))
def test_no_bytes_do_harm(data: bytes) -> None:
    with contextlib.suppress(JsonError):
        read_message(data, pb.TxnRequest())


@given(
    st.lists(RANGES, max_size=4), st.lists(st.integers(1, 60), max_size=8), st.sampled_from(["", " ", "\n"])
)
def test_a_stream_may_be_cut_anywhere(messages: list[pb.RangeRequest], cuts: list[int], gap: str) -> None:
    data = gap.join(write_message(message) for message in messages).encode()
    stream = JsonStream(10_000)
    found = []
    for cut in [*cuts, len(data) + 1]:
        piece, data = data[:cut], data[cut:]
        if piece:
            stream.feed(piece)
            found += list(stream.messages(pb.RangeRequest))
    stream.feed(b"", is_end=True)
    found += list(stream.messages(pb.RangeRequest, is_end=True))
    assert found == messages


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b'{"key":"Zg=="', b""], "unexpected EOF"),
        ([b'{"key" "Zg=="'], "invalid character '\"' after object key"),
        ([b"x"], "invalid character 'x' looking for beginning of value"),
        ([b"]"], "invalid character ']' looking for beginning of value"),
        ([b'{"key":"Zg==', b'\n"}'], "invalid character '\\n' in string literal"),
        ([b'{"key":"' + b"A" * 200], "a value of more than 100 characters"),
        ([b"5 "], "proto: syntax error (line 1:1): unexpected token 5"),
    ],
)
def test_a_stream_says_what_is_wrong_as_soon_as_it_is_clear(pieces: list[bytes], text: str) -> None:
    def read_all() -> None:
        stream = JsonStream(100)
        for piece in pieces:
            stream.feed(piece, is_end=not piece)
            list(stream.messages(pb.RangeRequest, is_end=not piece))

    with pytest.raises(JsonError) as raised:
        read_all()
    assert str(raised.value) == text


def test_a_character_may_be_cut_in_two() -> None:
    stream = JsonStream(100)
    data = '{"role":"é"}'.encode()
    stream.feed(data[:10])
    assert list(stream.messages(pb.AuthRoleGetRequest)) == []
    stream.feed(data[10:])
    assert [message.role for message in stream.messages(pb.AuthRoleGetRequest)] == ["é"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"key":5}', "proto: (line 1:8): invalid value for bytes field key: 5"),
        ('{"keys_only":"true"}', 'proto: (line 1:14): invalid value for bool field keysOnly: "true"'),
        ('{\n "limit": 1.5}', "proto: (line 2:11): invalid value for int64 field limit: 1.5"),
        ('{"key":"","key":""}', 'proto: (line 1:11): duplicate field "key"'),
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ('{"key":5,"x":}', "invalid character '}' looking for beginning of value"),
        ('{"key"', "unexpected EOF"),
        ('{"key":"\udcff"}', "proto: syntax error (line 1:8): invalid UTF-8 in string"),
    ],
)
def test_errors_name_the_place_and_the_reason(text: str, expected: str) -> None:
    with pytest.raises(JsonError) as raised:
        read_message(text.encode("utf-8", "surrogateescape"), pb.RangeRequest())
    assert str(raised.value) == expected


def test_depth_is_limited_whether_or_not_the_field_is_known() -> None:
    known = '{"success":[{"request_txn":' * 60 + "{}" + "}]}" * 60
    with pytest.raises(JsonError, match="exceeded max recursion depth"):
        read_message(known.encode(), pb.TxnRequest())
    unknown = '{"x":' + '[{"y":' * 50_000 + "1" + "}]" * 50_000 + "}"
    assert read_message(unknown.encode(), pb.TxnRequest()) == pb.TxnRequest()
    assert syntax_error(unknown) is None


@given(st.binary(max_size=20), st.sampled_from(["std", "url"]), st.booleans())
def test_bytes_are_read_in_both_alphabets_with_or_without_padding(
    data: bytes, alphabet: str, has_padding: bool
) -> None:
    encode = base64.b64encode if alphabet == "std" else base64.urlsafe_b64encode
    text = encode(data).decode()
    if not has_padding:
        text = text.rstrip("=")
    message = read_message(json.dumps({"key": text}).encode(), pb.RangeRequest())
    assert message.key == data


def test_a_status_is_escaped() -> None:
    assert json.loads(write_status(3, 'a "b"\n')) == {"code": 3, "message": 'a "b"\n'}
