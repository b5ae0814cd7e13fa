"""Users, roles, and tokens that are fetched anew when they are outdated."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from kvclient import (
    AuthenticationFailedError,
    Client,
    Credentials,
    KvClientError,
    PermissionDeniedError,
    prefix,
)
from kvtest.processes import ClusterProcesses

ROOT = Credentials("root", "root's password")
ALICE = Credentials("alice", "alice's password")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """A cluster of one with authentication on; alice may use the keys under alice/."""
    with ClusterProcesses(tmp_path_factory.mktemp("guarded")) as cluster:
        asyncio.run(_guard(cluster.endpoints))
        yield cluster
        cluster.print_logs()


async def _guard(endpoints: list[str]) -> None:
    async with Client(endpoints) as client:
        for user in (ROOT, ALICE):
            await client.auth.add_user(user.user, user.password)
        await client.auth.add_role("root")
        await client.auth.grant_role("root", "root")
        await client.auth.add_role("alices")
        await client.auth.grant_permission("alices", "readwrite", prefix("alice/"))
        await client.auth.grant_role("alice", "alices")
        await client.auth.enable()


@pytest_asyncio.fixture
async def root(guarded: ClusterProcesses) -> AsyncIterator[Client]:
    async with Client(guarded.endpoints, credentials=ROOT) as client:
        yield client


@pytest_asyncio.fixture
async def alice(guarded: ClusterProcesses) -> AsyncIterator[Client]:
    async with Client(guarded.endpoints, credentials=ALICE) as client:
        yield client


async def outdate_tokens(root: Client) -> None:
    """Any change of users or roles outdates every token that was given out."""
    await root.auth.add_role("outdating")
    await root.auth.delete_role("outdating")


async def test_a_user_does_what_its_roles_allow_and_no_more(alice: Client) -> None:
    await alice.put("alice/k", "v")
    with pytest.raises(PermissionDeniedError, match="etcdserver: permission denied"):
        await alice.put("bob/k", "v")
    with pytest.raises(PermissionDeniedError):
        await alice.auth.add_user("mallory", "x")


async def test_a_wrong_password_is_told_at_the_first_call(guarded: ClusterProcesses) -> None:
    async with Client(guarded.endpoints, credentials=Credentials("alice", "wrong")) as client:
        with pytest.raises(AuthenticationFailedError, match="invalid user ID or password"):
            await client.get("alice/k")


async def test_without_a_user_nothing_is_allowed(guarded: ClusterProcesses) -> None:
    async with Client(guarded.endpoints) as client:
        with pytest.raises(KvClientError, match="etcdserver: user name is empty"):
            await client.put("alice/k", "v")


async def test_calls_go_on_with_another_token_when_theirs_is_outdated(root: Client, alice: Client) -> None:
    await alice.put("alice/k", "1")
    await outdate_tokens(root)
    await alice.put("alice/k", "2")
    await outdate_tokens(root)
    pair = await alice.get("alice/k")
    assert pair is not None
    assert pair.value == b"2"


async def test_many_calls_at_once_share_one_new_token(root: Client, alice: Client) -> None:
    await alice.put("alice/k", "v")
    await outdate_tokens(root)
    await asyncio.gather(*(alice.put(f"alice/{number}", "v") for number in range(20)))


async def test_a_watch_opens_with_another_token_when_its_own_is_outdated(root: Client, alice: Client) -> None:
    await alice.put("alice/k", "1")
    await outdate_tokens(root)
    async with alice.watch(prefix("alice/")) as watcher:
        await alice.put("alice/k", "2")
        batch = await anext(watcher)
    assert batch.events[0].kv.value == b"2"


async def test_a_watch_of_foreign_keys_is_refused(alice: Client) -> None:
    with pytest.raises(KvClientError, match="permission denied"):
        async with alice.watch("bob/k"):
            pass


async def test_a_lease_is_renewed_with_another_token(root: Client, alice: Client) -> None:
    lease_id = (await alice.lease.grant(60)).ID
    await outdate_tokens(root)
    assert (await alice.lease.keep_alive_once(lease_id)).TTL == 60


async def test_a_snapshot_is_saved_with_another_token(root: Client) -> None:
    await root.get("k")
    async with Client(root.endpoints, credentials=ROOT) as other:
        await outdate_tokens(other)
    chunks = [chunk async for chunk in root.maintenance.snapshot()]
    assert chunks[-1].is_digest


async def test_users_and_roles_are_listed_with_what_they_have(root: Client) -> None:
    assert list((await root.auth.users()).users) == ["alice", "root"]
    assert list((await root.auth.roles()).roles) == ["alices", "root"]
    assert list((await root.auth.user("alice")).roles) == ["alices"]
    (permission,) = (await root.auth.role("alices")).perm
    assert (permission.key, permission.range_end) == (b"alice/", b"alice0")
    assert (await root.auth.status()).enabled


async def test_a_new_password_replaces_the_old_one(root: Client, guarded: ClusterProcesses) -> None:
    await root.auth.add_user("carol", "old")
    try:
        await root.auth.change_password("carol", "new")
        assert await root.auth.authenticate("carol", "new")
        with pytest.raises(AuthenticationFailedError):
            await root.auth.authenticate("carol", "old")
    finally:
        await root.auth.delete_user("carol")


async def test_credentials_are_no_hindrance_while_authentication_is_off(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path) as cluster:
        async with Client(cluster.endpoints, credentials=ROOT) as client:
            await client.put("k", "v")
            # And are used as soon as it is on.
            await _guard(cluster.endpoints)
            await client.put("k", "v")


def test_a_password_shows_in_no_text() -> None:
    assert re.search("password", repr(ROOT)) is None
