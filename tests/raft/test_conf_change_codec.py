"""The bytes of a membership change, which stay in logs for years."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.raft import ConfChange, ConfChangeKind, MemberId
from kvnode.raft.errors import ConfChangeFormatError
from kvnode.raft.types import decode_conf_change, encode_conf_change


def test_the_bytes_never_change():
    change = ConfChange(ConfChangeKind.ADD_LEARNER, MemberId(0x0102030405060708), b"ctx")
    assert encode_conf_change(change) == bytes.fromhex("010102030405060708") + b"ctx"


@given(st.sampled_from(ConfChangeKind), st.integers(0, 2**64 - 1), st.binary())
def test_what_is_written_is_read(kind, member_id, context):
    change = ConfChange(kind, MemberId(member_id), context)
    assert decode_conf_change(encode_conf_change(change)) == change


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 8, b"\x07" + b"\x00" * 8], ids=["empty", "short", "unknown-kind"]
)
def test_anything_else_is_refused(data):
    with pytest.raises(ConfChangeFormatError):
        decode_conf_change(data)
