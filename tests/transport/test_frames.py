"""Frames are found in any cut of the byte stream, and damage is noticed."""

import itertools
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.transport.frames import FrameError, FrameReader, FrameType, frame, frame_parts

bodies = st.lists(st.tuples(st.sampled_from(list(FrameType)), st.binary(max_size=300)), max_size=6)


@given(bodies, st.integers(1, 64))
def test_frames_are_found_however_the_stream_is_cut(
    frames: list[tuple[FrameType, bytes]], piece_bytes: int
) -> None:
    stream = b"".join(frame(kind, body) for kind, body in frames)
    reader = FrameReader()
    found = []
    for at in range(0, len(stream), piece_bytes):
        found.extend(reader.feed(stream[at : at + piece_bytes]))
    assert found == frames


@given(st.integers(0, 100_000), st.lists(st.integers(1, 40_000), min_size=1))
def test_a_large_frame_is_found_in_pieces_of_any_size(body_bytes: int, sizes: list[int]) -> None:
    body = random.Random(body_bytes).randbytes(body_bytes)
    following = frame(FrameType.RESPONSE, b"next")
    stream = frame(FrameType.MESSAGE, body) + following + following[:3]
    reader = FrameReader()
    found = []
    at = 0
    for size in itertools.cycle(sizes):
        found.extend(reader.feed(stream[at : at + size]))
        at += size
        if at >= len(stream):
            break
    found.extend(reader.feed(following[3:]))
    assert found == [(FrameType.MESSAGE, body), *[(FrameType.RESPONSE, b"next")] * 2]


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_a_frame_of_parts_is_the_frame_of_what_they_are_together(parts: list[bytes]) -> None:
    whole = frame(FrameType.MESSAGE, b"".join(parts))
    assert b"".join(frame_parts(FrameType.MESSAGE, parts)) == whole


def test_a_frame_byte_by_byte_costs_not_much_more_than_its_size() -> None:
    body = bytes(200_000)
    encoded = frame(FrameType.MESSAGE, body)
    reader = FrameReader()
    tracemalloc.start()
    try:
        for number in range(len(encoded) - 1):
            assert not list(reader.feed(encoded[number : number + 1]))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 2 * len(encoded)
    assert list(reader.feed(encoded[-1:])) == [(FrameType.MESSAGE, body)]


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_flipped_bit_is_never_taken_for_a_frame(body: bytes, draw: st.DataObject) -> None:
    encoded = bytearray(frame(FrameType.MESSAGE, body))
    # The length's high bytes are left alone: a huge length only waits for more.
    position = draw.draw(st.integers(4, len(encoded) - 1))
    encoded[position] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(FrameError):
        list(FrameReader().feed(bytes(encoded)))


def test_a_frame_of_the_first_protocol_version_is_refused() -> None:
    # Its checksum was the CRC-32 of zlib.
    payload = bytes((FrameType.MESSAGE,)) + b"body"
    old = len(payload).to_bytes(4, "big") + zlib.crc32(payload).to_bytes(4, "big") + payload
    with pytest.raises(FrameError, match="checksum does not match"):
        list(FrameReader().feed(old))


def test_a_length_beyond_the_limit_is_refused_before_it_is_buffered() -> None:
    reader = FrameReader(limit_bytes=1000)
    with pytest.raises(FrameError, match=r"1001 is outside 1\.\.1000"):
        list(reader.feed((1001).to_bytes(4, "big") + bytes(4)))


def test_the_limit_itself_is_let_through() -> None:
    body = b"x" * 999
    assert list(FrameReader(limit_bytes=1000).feed(frame(FrameType.MESSAGE, body))) == [
        (FrameType.MESSAGE, body)
    ]
