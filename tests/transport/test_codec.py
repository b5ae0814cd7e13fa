"""Every Raft message survives the wire, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.raft import messages as m
from kvnode.raft.types import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    MemberId,
    SnapshotMetadata,
)
from kvnode.transport.codec import MessageError, decode_message, encode_message

u64 = st.integers(0, 2**64 - 1)
ids = u64.map(MemberId)
head = (ids, ids, u64)
data = st.binary(max_size=200)
groups = st.lists(ids, max_size=4).map(tuple)


@st.composite
def append_entries(draw: st.DrawFn) -> m.AppendEntries:
    prev_index = draw(st.integers(0, 2**63))
    parts = draw(st.lists(st.tuples(u64, st.sampled_from(list(EntryKind)), data), max_size=5))
    entries = tuple(
        Entry(term, prev_index + 1 + offset, kind, body) for offset, (term, kind, body) in enumerate(parts)
    )
    return m.AppendEntries(
        draw(ids), draw(ids), draw(u64), prev_index, draw(u64), draw(u64), entries, draw(st.booleans())
    )


messages = st.one_of(
    append_entries(),
    st.builds(m.AppendEntriesResponse, *head, u64, st.booleans(), u64, u64),
    st.builds(m.Heartbeat, *head, u64, data),
    st.builds(m.HeartbeatResponse, *head, data, st.booleans()),
    st.builds(m.RequestVote, *head, u64, u64, st.booleans(), st.booleans()),
    st.builds(m.RequestVoteResponse, *head, st.booleans(), st.booleans()),
    st.builds(
        m.InstallSnapshot,
        *head,
        st.builds(SnapshotMetadata, u64, u64, st.builds(ConfState, groups, groups, groups, groups)),
    ),
    st.builds(m.TimeoutNow, *head),
    st.builds(m.Propose, *head, st.lists(data, max_size=4).map(tuple)),
    st.builds(
        m.ProposeConfChange, *head, st.builds(ConfChange, st.sampled_from(list(ConfChangeKind)), ids, data)
    ),
    st.builds(m.ReadIndexRequest, *head, data),
    st.builds(m.ReadIndexResponse, *head, u64, data),
    st.builds(m.TransferLeader, *head, ids),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: m.Message) -> None:
    decoded = decode_message(encode_message(message))
    assert decoded == message
    assert type(decoded) is type(message)


@given(messages, st.data())
def test_a_cut_message_is_refused_or_another_whole_one(message: m.Message, draw: st.DataObject) -> None:
    encoded = encode_message(message)
    cut = encoded[: draw.draw(st.integers(0, max(len(encoded) - 1, 0)))]
    try:
        decode_message(cut)
    except MessageError:
        return


@given(st.binary(max_size=100))
def test_garbage_raises_nothing_but_a_message_error(garbage: bytes) -> None:
    try:
        decode_message(garbage)
    except MessageError:
        return


def test_an_entry_that_runs_past_its_message_is_refused() -> None:
    message = m.AppendEntries(
        MemberId(1), MemberId(2), 3, 4, 3, 4, (Entry(3, 5, EntryKind.NORMAL, b"x" * 50),)
    )
    with pytest.raises(MessageError, match="runs past the end"):
        decode_message(encode_message(message)[:-1])
