"""Users and roles: rules, revisions, and what is stored of them."""

import pytest
from kvnode.auth.caller import ANONYMOUS, Caller
from kvnode.auth.errors import (
    AuthError,
    AuthRevisionOldError,
    InvalidManagementError,
    PermissionDeniedError,
    PermissionNotGrantedError,
    RoleEmptyError,
    RoleExistsError,
    RoleNotFoundError,
    RoleNotGrantedError,
    RootRoleMissingError,
    RootUserMissingError,
    UserEmptyError,
    UserExistsError,
    UserNotFoundError,
)
from kvnode.auth.records import Permission, Role, User
from kvnode.auth.store import AuthStore
from kvnode.storage.memory import MemoryEngine

READ, WRITE, READWRITE = 0, 1, 2


class Book:
    """A store over memory whose every change is written at once."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.store = AuthStore.open(self.engine)

    def change(self, name, *arguments):
        """Make a change, or raise; a refused change must write nothing and change no revision."""
        batch, before = self.engine.batch(), self.store.revision
        try:
            return getattr(self.store, name)(*arguments, batch)
        except AuthError:
            assert len(batch) == 0
            assert self.store.revision == before
            raise
        finally:
            self.engine.write(batch)

    def caller(self, user):
        return Caller(user, self.store.revision)

    def allows(self, user, method, key, range_end=b""):
        try:
            getattr(self.store, method)(self.caller(user), key, range_end)
        except PermissionDeniedError:
            return False
        return True


@pytest.fixture
def book():
    return Book()


@pytest.fixture
def enabled(book):
    """root, and alice with the role r; auth is on."""
    book.change("add_user", User("root", b"hash"))
    book.change("grant_role", "root", "root")
    book.change("add_user", User("alice", b"hash"))
    book.change("add_role", "r")
    book.change("grant_role", "alice", "r")
    book.change("enable")
    return book


def test_auth_begins_at_revision_one_and_off(book):
    assert (book.store.revision, book.store.is_enabled) == (1, False)
    assert book.store.user_names() == book.store.role_names() == []


def test_enabling_needs_the_user_root_with_the_role_root(book):
    with pytest.raises(RootUserMissingError):
        book.change("enable")
    book.change("add_user", User("root", b"hash"))
    with pytest.raises(RootRoleMissingError):
        book.change("enable")
    book.change("grant_role", "root", "root")
    book.change("enable")
    assert book.store.is_enabled


def test_enabling_moves_no_revision_and_disabling_does(enabled):
    before = enabled.store.revision
    enabled.change("enable")
    assert enabled.store.revision == before
    assert enabled.change("disable") is True
    assert enabled.store.revision == before + 1
    assert enabled.change("disable") is False
    assert enabled.store.revision == before + 1


def test_every_other_change_moves_the_revision_by_one(enabled):
    changes = [
        ("add_user", User("bob", b"hash")),
        ("change_password", "bob", b"other"),
        ("grant_role", "bob", "r"),
        ("revoke_role", "bob", "r"),
        ("delete_user", "bob"),
        ("add_role", "s"),
        ("grant_permission", "s", Permission(b"k", b"", READ)),
        ("revoke_permission", "s", b"k", b""),
        ("delete_role", "s"),
    ]
    for change in changes:
        before = enabled.store.revision
        enabled.change(*change)
        assert enabled.store.revision == before + 1, change


def test_granting_a_role_twice_changes_nothing(enabled):
    before = enabled.store.revision
    enabled.change("grant_role", "alice", "r")
    assert enabled.store.revision == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("add_user", User("", b"")), UserEmptyError),
        (("add_user", User("alice", b"")), UserExistsError),
        (("delete_user", "nobody"), UserNotFoundError),
        (("delete_user", "root"), InvalidManagementError),
        (("change_password", "nobody", b""), UserNotFoundError),
        (("grant_role", "nobody", "r"), UserNotFoundError),
        (("grant_role", "alice", "none"), RoleNotFoundError),
        (("revoke_role", "nobody", "r"), UserNotFoundError),
        (("revoke_role", "alice", "none"), RoleNotGrantedError),
        (("revoke_role", "root", "root"), InvalidManagementError),
        (("add_role", ""), RoleEmptyError),
        (("add_role", "r"), RoleExistsError),
        (("delete_role", "none"), RoleNotFoundError),
        (("delete_role", "root"), InvalidManagementError),
        (("grant_permission", "none", Permission(b"k", b"", READ)), RoleNotFoundError),
        (("grant_permission", "r", Permission(b"", b"", READ)), InvalidManagementError),
        (("grant_permission", "r", Permission(b"b", b"a", READ)), InvalidManagementError),
        (("grant_permission", "none", Permission(b"b", b"a", READ)), InvalidManagementError),
        (("revoke_permission", "none", b"k", b""), RoleNotFoundError),
        (("revoke_permission", "r", b"k", b""), PermissionNotGrantedError),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.__name__,
)
def test_what_can_not_be_done_is_refused_and_changes_nothing(enabled, change, error):
    with pytest.raises(error):
        enabled.change(*change)


def test_root_can_be_taken_apart_while_auth_is_off(enabled):
    enabled.change("disable")
    enabled.change("revoke_role", "root", "root")
    enabled.change("delete_user", "root")
    assert enabled.store.user_names() == ["alice"]


def test_anybody_else_may_hold_and_lose_the_role_root(enabled):
    enabled.change("grant_role", "alice", "root")
    enabled.store.check_root(enabled.caller("alice"))
    enabled.change("revoke_role", "alice", "root")
    with pytest.raises(PermissionDeniedError):
        enabled.store.check_root(enabled.caller("alice"))


def test_a_permission_on_the_same_range_is_replaced_and_others_stay_in_order(enabled):
    for permission in (
        Permission(b"b", b"", READ),
        Permission(b"a", b"c", READ),
        Permission(b"a", b"b", WRITE),
        Permission(b"b", b"", READWRITE),
        Permission(b"a", b"b", READ),
    ):
        enabled.change("grant_permission", "r", permission)
    assert enabled.store.role("r") == Role(
        "r",
        (Permission(b"a", b"c", READ), Permission(b"a", b"b", READ), Permission(b"b", b"", READWRITE)),
    )


def test_a_permission_is_taken_back_only_by_its_exact_range(enabled):
    enabled.change("grant_permission", "r", Permission(b"a", b"c", READ))
    for key, range_end in ((b"a", b""), (b"a", b"b"), (b"b", b"c"), (b"a", b"\0")):
        with pytest.raises(PermissionNotGrantedError):
            enabled.change("revoke_permission", "r", key, range_end)
    enabled.change("revoke_permission", "r", b"a", b"c")
    assert enabled.store.role("r") == Role("r")


def test_deleting_a_role_takes_it_from_its_users(enabled):
    enabled.change("delete_role", "r")
    assert enabled.store.user("alice").roles == ()


def test_a_user_without_password_never_gets_one(book):
    book.change("add_user", User("cn", b"", has_no_password=True))
    book.change("change_password", "cn", b"hash")
    assert book.store.user("cn").password_hash == b""


def test_reading_and_writing_are_granted_apart(enabled):
    enabled.change("grant_permission", "r", Permission(b"r", b"s", READ))
    enabled.change("grant_permission", "r", Permission(b"w", b"x", WRITE))
    enabled.change("grant_permission", "r", Permission(b"m", b"", READWRITE))
    seen = {
        (method, key): enabled.allows("alice", method, key)
        for method in ("check_read", "check_write")
        for key in (b"r1", b"w1", b"m")
    }
    assert seen == {
        ("check_read", b"r1"): True,
        ("check_read", b"w1"): False,
        ("check_read", b"m"): True,
        ("check_write", b"r1"): False,
        ("check_write", b"w1"): True,
        ("check_write", b"m"): True,
    }


def test_permissions_of_all_roles_add_up(enabled):
    enabled.change("grant_permission", "r", Permission(b"a", b"c", READ))
    enabled.change("add_role", "s")
    enabled.change("grant_permission", "s", Permission(b"c", b"e", READ))
    assert not enabled.allows("alice", "check_read", b"a", b"e")
    enabled.change("grant_role", "alice", "s")
    assert enabled.allows("alice", "check_read", b"a", b"e")
    enabled.change("revoke_role", "alice", "s")
    assert not enabled.allows("alice", "check_read", b"a", b"e")


def test_the_role_root_needs_no_permission(enabled):
    assert enabled.allows("root", "check_read", b"any", b"\0")
    assert enabled.allows("root", "check_write", b"any", b"\0")


def test_an_unknown_kind_of_permission_allows_nothing(enabled):
    enabled.change("grant_permission", "r", Permission(b"k", b"", 7))
    assert not enabled.allows("alice", "check_read", b"k")
    assert not enabled.allows("alice", "check_write", b"k")
    assert AuthStore.open(enabled.engine).role("r") == enabled.store.role("r")


def test_a_request_without_user_is_told_so(enabled):
    with pytest.raises(UserEmptyError):
        enabled.store.check_read(ANONYMOUS, b"k")
    with pytest.raises(UserEmptyError):
        enabled.store.check_root(ANONYMOUS)


def test_an_identity_from_before_the_last_change_touches_no_data(enabled):
    caller = enabled.caller("root")
    enabled.change("add_role", "s")
    with pytest.raises(AuthRevisionOldError):
        enabled.store.check_read(caller, b"k")
    with pytest.raises(AuthRevisionOldError):
        enabled.store.check_write(caller, b"k")
    # As in etcd administration goes by the role at this moment alone.
    enabled.store.check_root(caller)


def test_a_user_who_is_gone_touches_no_data(enabled):
    enabled.change("delete_user", "alice")
    assert not enabled.allows("alice", "check_read", b"k")
    with pytest.raises(UserNotFoundError):
        enabled.store.check_root(enabled.caller("alice"))


def test_everything_is_allowed_while_auth_is_off(enabled):
    enabled.change("disable")
    enabled.store.check_read(ANONYMOUS, b"k", b"\0")
    enabled.store.check_write(ANONYMOUS, b"k", b"\0")
    enabled.store.check_root(ANONYMOUS)
    assert enabled.store.is_root(ANONYMOUS)


def test_what_is_stored_is_what_was_there(enabled):
    enabled.change("add_user", User("cn", b"", has_no_password=True))
    enabled.change("add_user", User("ü", b"hash"))
    enabled.change("grant_permission", "r", Permission(b"\0\xff", b"\0", READWRITE))
    enabled.change("delete_user", "cn")
    again = AuthStore.open(enabled.engine)
    assert again.is_enabled
    assert again.revision == enabled.store.revision
    assert [again.user(name) for name in again.user_names()] == [
        enabled.store.user(name) for name in ("alice", "root", "ü")
    ]
    assert [again.role(name) for name in again.role_names()] == [enabled.store.role("r")]
