"""Commands of a log entry, as messages."""

import json

from google.protobuf.message import Message
from kvnode.apply.commands import (
    CommandKind,
    encode_as_user,
    encode_authenticate,
    encode_command,
    encode_lease_ids,
)
from kvnode.apply.decoding import DecodedCommand, decode_entry
from kvnode.auth.caller import Caller
from kvnode.pb import rpc_pb2 as pb


def one(kind: CommandKind, payload: bytes) -> DecodedCommand:
    (command,) = decode_entry(encode_command(kind, 7, payload))
    return command


def test_each_command_of_an_entry_is_its_request() -> None:
    put = pb.PutRequest(key=b"k", value=b"v")
    revoke = pb.LeaseRevokeRequest(ID=5)
    data = encode_command(CommandKind.PUT, 1, put.SerializeToString()) + encode_command(
        CommandKind.LEASE_REVOKE, 2, revoke.SerializeToString()
    )
    assert [(c.kind, c.request_id, c.user, c.content) for c in decode_entry(data)] == [
        ("PUT", 1, None, put),
        ("LEASE_REVOKE", 2, None, revoke),
    ]


def test_a_leaders_first_entry_has_no_commands() -> None:
    assert decode_entry(b"") == []


def test_a_command_of_a_user_names_the_user() -> None:
    payload = encode_as_user(Caller("alice", 3), CommandKind.PUT, pb.PutRequest(key=b"k").SerializeToString())
    command = one(CommandKind.AS_USER, payload)
    assert (command.kind, command.user, command.content) == ("PUT", "alice", pb.PutRequest(key=b"k"))


def test_payloads_that_are_no_messages_are_told_all_the_same() -> None:
    assert one(CommandKind.LEASE_REVOKE_MANY, encode_lease_ids([1, 2])).content == {"IDs": [1, 2]}
    assert one(CommandKind.CLUSTER_VERSION, b"[3, 6]").content == {"value": [3, 6]}
    assert one(CommandKind.DOWNGRADE, b"").content == {}
    assert one(CommandKind.MEMBER_ATTRIBUTES, json.dumps({"id": 1}).encode()).content == {"id": 1}


def test_secrets_are_left_out() -> None:
    secret = b"do not show"
    add = pb.AuthUserAddRequest(name="u", password="do not show", hashedPassword="do not show")
    change = pb.AuthUserChangePasswordRequest(name="u", hashedPassword="do not show")
    for kind, payload in (
        (CommandKind.USER_ADD, add.SerializeToString()),
        (CommandKind.USER_CHANGE_PASSWORD, change.SerializeToString()),
        (CommandKind.AUTHENTICATE, encode_authenticate("u", "do not show")),
        (CommandKind.USER_ADD, b"\xff" + secret),
    ):
        command = one(kind, payload)
        shown = command.content.SerializeToString() if isinstance(command.content, Message) else b""
        assert secret not in shown + command.payload + repr(command.content).encode()


def test_what_cannot_be_decoded_is_handed_on() -> None:
    command = one(CommandKind.PUT, b"\xff\xff")
    assert (command.kind, command.content, command.payload) == ("PUT", None, b"\xff\xff")
    (unknown,) = decode_entry(bytes([250]) + encode_command(CommandKind.PUT, 1, b"x")[1:])
    assert (unknown.kind, unknown.content, unknown.payload) == ("250", None, b"x")


def test_every_kind_has_a_form() -> None:
    empty_is_fine = set(CommandKind) - {CommandKind.AS_USER, CommandKind.AUTHENTICATE}
    assert all(one(kind, b"").content is not None for kind in empty_is_fine)
