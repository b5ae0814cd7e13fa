"""Ranges as the wire writes them (etcd-v3 API: range_end of KV.Range)."""

import pytest
from kvclient import KeyRange, everything, from_key, prefix
from kvclient.keys import as_bytes, key_range, prefix_end


@pytest.mark.parametrize(
    ("key", "end"),
    [
        pytest.param(b"a", b"b", id="last-byte-plus-one"),
        pytest.param(b"foo/", b"foo0", id="slash-becomes-zero"),
        pytest.param(b"a\xff", b"b", id="trailing-ff-is-dropped"),
        pytest.param(b"a\xff\xff", b"b", id="several-ff-are-dropped"),
        pytest.param(b"\xff", b"\x00", id="only-ff-has-no-end"),
        pytest.param(b"", b"\x00", id="empty-has-no-end"),
        pytest.param(b"a\x00", b"a\x01", id="nul-counts-like-any-byte"),
    ],
)
def test_a_prefix_ends_at_the_first_key_after_it(key: bytes, end: bytes) -> None:
    assert prefix_end(key) == end


def test_the_empty_prefix_is_every_key() -> None:
    assert prefix("") == everything() == KeyRange(b"\x00", b"\x00")


def test_from_the_empty_key_is_every_key() -> None:
    assert from_key("") == everything()


def test_a_plain_key_is_a_range_of_one() -> None:
    assert key_range("é") == KeyRange("é".encode(), b"")


def test_undecodable_arguments_keep_their_bytes() -> None:
    assert as_bytes(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"
