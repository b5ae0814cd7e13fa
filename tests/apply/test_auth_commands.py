"""Auth in the state machine: what is refused when it is applied, whatever its proposer knew."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvnode.apply.auth_commands import AuthDisabled, TokenAssigned, UserInvalidated
from kvnode.apply.commands import (
    CommandKind,
    decode_as_user,
    decode_authenticate,
    encode_as_user,
    encode_authenticate,
)
from kvnode.apply.errors import CommandFormatError
from kvnode.auth.caller import ANONYMOUS, MEMBER, Caller
from kvnode.auth.errors import (
    AuthError,
    AuthFailedError,
    AuthNotEnabledError,
    AuthRevisionOldError,
    NoPasswordUserError,
    PermissionDeniedError,
    PermissionNotGivenError,
    UserEmptyError,
    UserNotFoundError,
)
from kvnode.pb import auth_pb2 as auth
from kvnode.pb import rpc_pb2 as rpc
from kvnode.storage.keyspace import seal_key
from kvtest.state_machine import AsUser, StateMachine

READ, WRITE, READWRITE = auth.Permission.READ, auth.Permission.WRITE, auth.Permission.READWRITE


def grant(role, kind, key, range_end=b""):
    return rpc.AuthRoleGrantPermissionRequest(
        name=role, perm=auth.Permission(permType=kind, key=key, range_end=range_end)
    )


def user(name, *roles):
    """Requests that make a user with roles."""
    return [
        rpc.AuthUserAddRequest(name=name, hashedPassword=base64.b64encode(b"hash").decode()),
        *(rpc.AuthUserGrantRoleRequest(user=name, role=role) for role in roles),
    ]


SETUP = [
    *user("root", "root"),
    *(rpc.AuthRoleAddRequest(name=name) for name in ("reader", "writer", "both")),
    grant("reader", READ, b"r", b"s"),
    grant("writer", WRITE, b"r", b"s"),
    grant("both", READWRITE, b"r", b"s"),
    *user("reader", "reader"),
    *user("writer", "writer"),
    *user("both", "both"),
    *user("nothing"),
    rpc.AuthEnableRequest(),
]


@pytest.fixture
def machine():
    machine = StateMachine()
    machine.put(b"r1", b"before")
    machine.put(b"other", b"secret")
    for request in SETUP:
        machine.do(request)
    return machine


def by(machine, name, request):
    """A request as a user makes it who was identified just now."""
    return AsUser(Caller(name, machine.applier.auth.revision), request)


def refusal(machine, request):
    """Apply a request that must be refused; it must not have moved anything."""
    before = machine.dump()
    with pytest.raises(AuthError) as caught:
        machine.do(request)
    after = machine.dump()
    for each in (before, after):
        del each[seal_key(machine.revision)]
    assert after == before
    return type(caught.value)


PUT = rpc.PutRequest(key=b"r1", value=b"v")
PUT_PREVIOUS = rpc.PutRequest(key=b"r1", value=b"v", prev_kv=True)
DELETE = rpc.DeleteRangeRequest(key=b"r1", range_end=b"r3")
DELETE_PREVIOUS = rpc.DeleteRangeRequest(key=b"r1", range_end=b"r3", prev_kv=True)
GET = rpc.RangeRequest(key=b"r1")
READS, WRITES, ALL = ("reader", "both", "root"), ("writer", "both", "root"), ("both", "root")
EVERYBODY = ("nothing", "reader", "writer", "both", "root")


def op(request):
    name = {
        rpc.PutRequest: "request_put",
        rpc.DeleteRangeRequest: "request_delete_range",
        rpc.RangeRequest: "request_range",
        rpc.TxnRequest: "request_txn",
    }[type(request)]
    return rpc.RequestOp(**{name: request})


def nested(request, depth):
    """A request, that many transactions deep, in a branch that will not run."""
    for _ in range(depth):
        request = rpc.TxnRequest(failure=[op(request)])
    return request


#: What is asked for, and who may.
OPERATIONS = [
    pytest.param(PUT, WRITES, id="put"),
    pytest.param(PUT_PREVIOUS, ALL, id="put-prev-kv"),
    pytest.param(DELETE, WRITES, id="delete"),
    pytest.param(DELETE_PREVIOUS, ALL, id="delete-prev-kv"),
    pytest.param(rpc.PutRequest(key=b"other"), ("root",), id="put-elsewhere"),
    pytest.param(rpc.DeleteRangeRequest(key=b"r1", range_end=b"\0"), ("root",), id="delete-open"),
    pytest.param(rpc.DeleteRangeRequest(key=b"q", range_end=b"r5"), ("root",), id="delete-too-much"),
    pytest.param(rpc.TxnRequest(success=[op(GET), op(PUT)]), ALL, id="txn-of-both"),
    pytest.param(
        rpc.TxnRequest(compare=[rpc.Compare(key=b"r1")], success=[op(PUT)]), ALL, id="txn-that-compares"
    ),
    pytest.param(
        rpc.TxnRequest(compare=[rpc.Compare(key=b"q", range_end=b"r5")], success=[op(PUT)]),
        ("root",),
        id="txn-that-compares-too-much",
    ),
    *(
        pytest.param(nested(request, depth), who, id=f"{name}-in-{depth}-txns")
        for depth in (1, 2, 4)
        for name, request, who in (
            ("put", PUT, WRITES),
            ("put-prev-kv", PUT_PREVIOUS, ALL),
            ("delete", DELETE, WRITES),
            ("delete-prev-kv", DELETE_PREVIOUS, ALL),
            ("range", GET, READS),
            ("range-open", rpc.RangeRequest(key=b"r1", range_end=b"\0"), ("root",)),
            ("compare", rpc.TxnRequest(compare=[rpc.Compare(key=b"other")]), ("root",)),
        )
    ),
]


@pytest.mark.parametrize(("request_", "allowed"), OPERATIONS)
@pytest.mark.parametrize("name", EVERYBODY)
def test_an_operation_is_for_those_who_hold_its_permissions(machine, name, request_, allowed):
    asked = by(machine, name, request_)
    if name in allowed:
        machine.do(asked)
    else:
        assert refusal(machine, asked) is PermissionDeniedError


@pytest.mark.parametrize(("request_", "allowed"), OPERATIONS)
def test_an_operation_of_nobody_an_unknown_or_a_stale_user_is_refused(machine, request_, allowed):
    assert refusal(machine, request_) is UserEmptyError
    assert refusal(machine, AsUser(ANONYMOUS, request_)) is UserEmptyError
    assert refusal(machine, by(machine, "gone", request_)) is PermissionDeniedError
    old = Caller("root", machine.applier.auth.revision - 1)
    assert refusal(machine, AsUser(old, request_)) is AuthRevisionOldError


@pytest.mark.parametrize(("request_", "allowed"), OPERATIONS)
def test_without_auth_nobody_is_asked(machine, request_, allowed):
    machine.do(by(machine, "root", rpc.AuthDisableRequest()))
    machine.do(AsUser(Caller("gone", 1), request_))
    machine.do(request_)


ADMINISTRATION = [
    rpc.AuthEnableRequest(),
    rpc.AuthDisableRequest(),
    *user("new"),
    rpc.AuthUserDeleteRequest(name="both"),
    rpc.AuthUserChangePasswordRequest(name="both"),
    rpc.AuthUserGrantRoleRequest(user="both", role="reader"),
    rpc.AuthUserRevokeRoleRequest(name="both", role="both"),
    rpc.AuthRoleAddRequest(name="new"),
    rpc.AuthRoleDeleteRequest(role="both"),
    grant("reader", WRITE, b"x"),
    rpc.AuthRoleRevokePermissionRequest(role="reader", key=b"r", range_end=b"s"),
]


@pytest.mark.parametrize(
    "request_", [*ADMINISTRATION, rpc.CompactionRequest(revision=2)], ids=lambda each: type(each).__name__
)
def test_administration_is_for_root(machine, request_):
    for name in ("nothing", "both"):
        assert refusal(machine, by(machine, name, request_)) is PermissionDeniedError
    assert refusal(machine, by(machine, "gone", request_)) is UserNotFoundError
    assert refusal(machine, AsUser(ANONYMOUS, request_)) is UserEmptyError
    machine.do(by(machine, "root", request_))


@pytest.mark.parametrize(
    "request_",
    [
        *ADMINISTRATION,
        rpc.CompactionRequest(revision=2),
        rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, memberID=1, alarm=rpc.NOSPACE),
    ],
    ids=lambda each: type(each).__name__,
)
def test_administration_of_nobody_is_refused_though_a_member_took_it_that_has_not_heard_of_auth(
    machine, request_
):
    assert refusal(machine, request_) is UserEmptyError


def test_what_members_do_by_themselves_needs_no_user(machine):
    machine.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    machine.do(by(machine, "root", rpc.PutRequest(key=b"other", lease=7)))
    machine.do(rpc.LeaseCheckpointRequest(checkpoints=[rpc.LeaseCheckpoint(ID=7, remaining_TTL=5)]))
    machine.do(AsUser(MEMBER, rpc.CompactionRequest(revision=2)))
    alarm = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=1, alarm=rpc.NOSPACE)
    machine.do(AsUser(MEMBER, alarm))
    machine.expire(7)
    assert not machine.applier.store.index.latest(b"other")


def test_a_member_may_write_in_its_own_name(machine):
    machine.do(AsUser(MEMBER, rpc.DeleteRangeRequest(key=b"other")))
    assert not machine.applier.store.index.latest(b"other")


# Leases.


@pytest.fixture
def leased(machine):
    """Lease 7 holds a key that everybody may write, lease 8 one that only root may."""
    for lease_id, key in ((7, b"r1"), (8, b"other")):
        machine.do(rpc.LeaseGrantRequest(ID=lease_id, TTL=60))
        machine.do(by(machine, "root", rpc.PutRequest(key=key, lease=lease_id)))
    return machine


def test_a_lease_is_revoked_by_who_may_write_all_its_keys(leased):
    for name in ("nothing", "reader"):
        assert refusal(leased, by(leased, name, rpc.LeaseRevokeRequest(ID=7))) is PermissionDeniedError
    assert refusal(leased, by(leased, "both", rpc.LeaseRevokeRequest(ID=8))) is PermissionDeniedError
    leased.do(by(leased, "writer", rpc.LeaseRevokeRequest(ID=7)))
    leased.do(by(leased, "root", rpc.LeaseRevokeRequest(ID=8)))


def test_a_lease_of_nobody_is_not_revoked_by_nobody(leased):
    assert refusal(leased, rpc.LeaseRevokeRequest(ID=7)) is UserEmptyError


def test_a_lease_without_keys_is_revoked_by_any_user(machine):
    machine.do(rpc.LeaseGrantRequest(ID=9, TTL=60))
    machine.do(by(machine, "nothing", rpc.LeaseRevokeRequest(ID=9)))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_key_can_not_be_hung_on_a_lease_that_its_writer_could_not_revoke(leased, depth):
    put = rpc.PutRequest(key=b"r2", lease=8)
    asked = rpc.TxnRequest(success=[op(put)]) if depth else put
    if depth == 2:
        asked = rpc.TxnRequest(success=[op(asked)])
    assert refusal(leased, by(leased, "both", asked)) is PermissionDeniedError
    leased.do(by(leased, "root", asked))


# Tokens.


def test_an_authentication_assigns_a_token_that_names_its_entry(machine):
    response = machine.raw(CommandKind.AUTHENTICATE, encode_authenticate("both", "Abc"))
    token = f"Abc.{machine.applier.applied_index}"
    assert response.token == token
    assert machine.batches[-1].auth_events == [TokenAssigned("both", token)]


def test_tokens_that_prove_themselves_are_not_remembered(machine):
    assert machine.raw(CommandKind.AUTHENTICATE, encode_authenticate("both", "")).token == ""
    assert machine.batches[-1].auth_events == []


def test_a_user_who_is_gone_by_then_gets_no_token(machine):
    with pytest.raises(AuthFailedError):
        machine.raw(CommandKind.AUTHENTICATE, encode_authenticate("gone", "Abc"))
    options = auth.UserAddOptions(no_password=True)
    machine.do(by(machine, "root", rpc.AuthUserAddRequest(name="cn", options=options)))
    with pytest.raises(AuthFailedError):
        machine.raw(CommandKind.AUTHENTICATE, encode_authenticate("cn", "Abc"))
    machine.do(by(machine, "root", rpc.AuthDisableRequest()))
    with pytest.raises(AuthNotEnabledError):
        machine.raw(CommandKind.AUTHENTICATE, encode_authenticate("both", "Abc"))


def test_tokens_are_void_with_their_user_their_password_and_auth_itself(machine):
    for request, event in (
        (rpc.AuthUserChangePasswordRequest(name="both"), UserInvalidated("both")),
        (rpc.AuthUserDeleteRequest(name="both"), UserInvalidated("both")),
        (rpc.AuthUserRevokeRoleRequest(name="reader", role="reader"), None),
        (rpc.AuthDisableRequest(), AuthDisabled()),
    ):
        machine.do(by(machine, "root", request))
        assert machine.batches[-1].auth_events == ([] if event is None else [event])


# Odds and ends.


def test_a_permission_has_to_be_given(machine):
    with pytest.raises(PermissionNotGivenError):
        machine.do(by(machine, "root", rpc.AuthRoleGrantPermissionRequest(name="reader")))


def test_a_hash_that_is_none_is_refused(machine):
    with pytest.raises(NoPasswordUserError):
        machine.do(by(machine, "root", rpc.AuthUserAddRequest(name="x", hashedPassword="not base64!")))


def test_auth_that_begins_in_the_middle_of_an_entry_guards_the_rest_of_it():
    machine = StateMachine()
    answers = machine.batch(*user("root", "root"), PUT, rpc.AuthEnableRequest(), PUT)
    assert isinstance(answers[2], rpc.PutResponse)
    assert isinstance(answers[4], UserEmptyError)
    revision = machine.applier.auth.revision
    answers = machine.batch(PUT, AsUser(Caller("root", revision), rpc.AuthDisableRequest()), PUT)
    assert [type(answer) for answer in answers] == [
        UserEmptyError,
        rpc.AuthDisableResponse,
        rpc.PutResponse,
    ]


def test_permissions_that_change_in_an_entry_count_from_there_on(machine):
    caller = Caller("both", machine.applier.auth.revision)
    answers = machine.batch(
        AsUser(caller, PUT),
        by(machine, "root", rpc.AuthUserRevokeRoleRequest(name="both", role="both")),
        AsUser(caller, PUT),
        AsUser(Caller("both", caller.auth_revision + 1), PUT),
    )
    assert [type(answer) for answer in answers] == [
        rpc.PutResponse,
        rpc.AuthUserRevokeRoleResponse,
        AuthRevisionOldError,
        PermissionDeniedError,
    ]


def test_a_restarted_member_guards_as_before(machine):
    machine.reopen()
    assert refusal(machine, PUT) is UserEmptyError
    assert refusal(machine, by(machine, "reader", PUT)) is PermissionDeniedError
    machine.do(by(machine, "writer", PUT))


@given(st.text(), st.integers(0, 2**64 - 1), st.binary(max_size=50))
def test_a_command_of_a_user_is_read_as_it_was_written(name, revision, payload):
    caller = Caller(name, revision)
    written = encode_as_user(caller, CommandKind.PUT, payload)
    assert decode_as_user(written) == (caller, CommandKind.PUT, payload)


@given(st.text(), st.text(alphabet="abcXYZ", max_size=20))
def test_an_authentication_is_read_as_it_was_written(name, prefix):
    assert decode_authenticate(encode_authenticate(name, prefix)) == (name, prefix)


@pytest.mark.parametrize("payload", [b"", b"\0" * 12, b"\0" * 8 + b"\0\0\0\5\1ab", b"\xff" * 30])
def test_what_is_no_command_of_a_user_ends_the_member(machine, payload):
    with pytest.raises(CommandFormatError):
        machine.raw(CommandKind.AS_USER, payload)


def test_a_command_of_a_user_holds_no_other_such_command(machine):
    inner = encode_as_user(Caller("reader", 1), CommandKind.PUT, PUT.SerializeToString())
    with pytest.raises(CommandFormatError):
        machine.raw(CommandKind.AS_USER, encode_as_user(Caller("root", 99), CommandKind.AS_USER, inner))


# The same on every member.

NAMES = st.sampled_from(["root", "reader", "both", "extra"])
ROLES = st.sampled_from(["root", "reader", "both", "more"])
DATA = st.one_of(
    st.builds(rpc.PutRequest, key=st.sampled_from([b"r1", b"r2", b"x"]), lease=st.sampled_from([0, 0, 7])),
    st.builds(
        rpc.DeleteRangeRequest, key=st.sampled_from([b"r1", b"q"]), range_end=st.sampled_from([b"", b"r9"])
    ),
    st.builds(lambda request: nested(request, 2), st.sampled_from([PUT, GET, DELETE_PREVIOUS])),
    st.builds(rpc.LeaseRevokeRequest, ID=st.just(7)),
)
CHANGES = st.one_of(
    st.builds(rpc.AuthUserAddRequest, name=NAMES),
    st.builds(rpc.AuthUserDeleteRequest, name=NAMES),
    st.builds(rpc.AuthUserChangePasswordRequest, name=NAMES),
    st.builds(rpc.AuthUserGrantRoleRequest, user=NAMES, role=ROLES),
    st.builds(rpc.AuthUserRevokeRoleRequest, name=NAMES, role=ROLES),
    st.builds(rpc.AuthRoleAddRequest, name=ROLES),
    st.builds(rpc.AuthRoleDeleteRequest, role=ROLES),
    st.builds(grant, ROLES, st.sampled_from([READ, WRITE, READWRITE]), st.sampled_from([b"r", b"x"])),
    st.builds(rpc.AuthEnableRequest),
    st.builds(rpc.AuthDisableRequest),
)
COMMANDS = st.one_of(
    DATA,
    CHANGES,
    st.builds(rpc.LeaseGrantRequest, ID=st.just(7), TTL=st.just(60)),
    st.builds(AsUser, st.builds(Caller, NAMES, st.integers(10, 30)), st.one_of(DATA, CHANGES)),
)


@settings(deadline=None)
@given(st.lists(st.lists(COMMANDS, max_size=4), max_size=12), st.data())
def test_members_that_crash_and_replay_agree_on_users_and_on_what_they_may(entries, data):
    steady = StateMachine()
    for request in SETUP:
        steady.do(request)
    for requests in entries:
        steady.batch(*requests)
    crashing = StateMachine()
    position = 0
    while position < len(steady.log):
        size = data.draw(st.integers(1, 9), label="entries in a batch")
        crashing.feed(*steady.log[position : position + size])
        if data.draw(st.booleans(), label="crash"):
            crashing.engine.crash(lambda count: data.draw(st.integers(0, count), label="batches kept"))
            crashing.applier = crashing._open()
        position = crashing.applier.applied_index - 1
    assert crashing.dump() == steady.dump()
    crashing.reopen()
    for name in ("revision", "is_enabled"):
        assert getattr(crashing.applier.auth, name) == getattr(steady.applier.auth, name)
    crashing.log = list(steady.log)
    caller = Caller("both", steady.applier.auth.revision)
    asked = [PUT, AsUser(caller, PUT), AsUser(caller, DELETE_PREVIOUS)]
    assert kinds(crashing.batch(*asked)) == kinds(steady.batch(*asked))


def kinds(answers):
    return [type(answer) for answer in answers]


@given(st.lists(st.lists(COMMANDS, max_size=4), max_size=8))
def test_answers_and_tokens_do_not_depend_on_the_batching(entries):
    one, other = StateMachine(), StateMachine()
    for requests in (SETUP, *entries):
        one.batch(*requests)
    other.feed(*one.log)
    told = [
        (
            [(number, type(result)) for batch in machine.batches for number, result in batch.results],
            [event for batch in machine.batches for event in batch.auth_events],
        )
        for machine in (one, other)
    ]
    assert told[0] == told[1]
