"""The batch of commands in an entry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.apply.commands import (
    CommandKind,
    decode_commands,
    decode_lease_ids,
    encode_command,
    encode_lease_ids,
)
from kvnode.apply.errors import CommandFormatError, MalformedCommandError
from kvtest.state_machine import StateMachine

COMMANDS = st.lists(
    st.tuples(st.sampled_from(CommandKind), st.integers(0, 2**64 - 1), st.binary(max_size=50)), max_size=10
)


@given(COMMANDS)
def test_joined_commands_are_read_back(commands):
    data = b"".join(encode_command(*command) for command in commands)
    assert list(decode_commands(data)) == [tuple(command) for command in commands]


@given(COMMANDS.filter(bool), st.data())
def test_an_entry_cut_short_inside_a_command_is_refused(commands, data):
    whole = b"".join(encode_command(*command) for command in commands)
    last = len(encode_command(*commands[-1]))
    cut = data.draw(st.integers(1, last - 1))
    with pytest.raises(CommandFormatError):
        list(decode_commands(whole[:-cut]))
    machine = StateMachine()
    entry = machine.entry()._replace(data=encode_command(CommandKind.PUT, 1, b"")[:-1])
    with pytest.raises(CommandFormatError):
        machine.feed(entry)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_lease_ids_are_read_back(lease_ids):
    assert list(decode_lease_ids(encode_lease_ids(lease_ids))) == lease_ids


def test_lease_ids_of_a_broken_length_are_refused():
    with pytest.raises(CommandFormatError):
        decode_lease_ids(b"1234567")


def test_a_command_of_a_version_to_come_stops_the_member():
    machine = StateMachine()
    entry = machine.entry()._replace(data=b"\xff" + encode_command(CommandKind.PUT, 1, b"")[1:])
    with pytest.raises(CommandFormatError):
        machine.feed(entry)


def test_a_payload_that_is_no_message_is_refused_and_the_rest_applied():
    machine = StateMachine()
    good = machine.entry()
    bad = encode_command(CommandKind.PUT, 7, b"\xff\xff")
    put = encode_command(CommandKind.PUT, 8, b"\x0a\x01k")
    (first, second) = machine.feed(good._replace(data=bad + put)).results
    assert (first[0], type(first[1])) == (7, MalformedCommandError)
    assert second[1].header.revision == 2
