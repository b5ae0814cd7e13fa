"""The members, as far as the operator asks anything of them.

`MemberApi` is the port; tests put a cluster of their own behind it.  Reading never raises: who did not answer
is simply not in the answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from kvclient import Client, KvClientError, LearnerNotReadyError, TlsConfig, UnhealthyClusterError
from kvclient.errors import ConnectionFailedError, MemberNotFoundError
from kvnode.status import StatusCode

from kvoperator.errors import MemberError, MemberNotReadyError, MemberRefusedError
from kvoperator.model.observed import ClusterId, MemberId, Membership, MemberStatus, MemberView

__all__ = ["MemberApi", "MemberClient", "MemberReport"]

logger = logging.getLogger(__name__)

_READ_TIMEOUT_S: Final = 2.0
_DIAL_TIMEOUT_S: Final = 1.5
_WRITE_TIMEOUT_S: Final = 8.0
"""Longer than an election, so that a change asked for in the middle of one still finds its leader."""

_PROBE_KEY: Final = b"\0kvoperator"
"""Read only, never written: a linearizable read proves the quorum, whether the key is there or not."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberReport:
    """The member list, if a quorum stood behind it, and what each member said, by ordinal."""

    membership: Membership | None
    statuses: Mapping[int, MemberStatus]


class MemberApi(Protocol):
    """The cluster of one KVCluster.  ``endpoints`` are client URLs by ordinal of the pods that may answer."""

    async def observe(self, endpoints: Mapping[int, str]) -> MemberReport: ...

    async def add_learner(self, endpoints: Sequence[str], peer_url: str) -> MemberId:
        """Raises MemberError."""
        ...

    async def promote(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        """Raises MemberNotReadyError while it lags, and other MemberErrors."""
        ...

    async def remove(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        """A member that is out already is no error.  Raises MemberError."""
        ...

    async def move_leader(self, endpoints: Sequence[str], target_id: MemberId) -> None:
        """Raises MemberError."""
        ...


class MemberClient:
    """`MemberApi` over gRPC.

    A client per call set: the addresses behind the names change with every restart of a pod, and a pass asks
    so little that connections are not worth keeping.
    """

    def __init__(self, tls_directory: Path | None = None) -> None:
        self._tls = (
            None
            if tls_directory is None
            else TlsConfig(
                ca_file=tls_directory / "ca.crt",
                cert_file=tls_directory / "tls.crt",
                key_file=tls_directory / "tls.key",
            )
        )

    def _client(self, endpoints: Sequence[str], timeout_s: float) -> Client:
        return Client(endpoints, tls=self._tls, timeout_s=timeout_s, dial_timeout_s=_DIAL_TIMEOUT_S)

    async def observe(self, endpoints: Mapping[int, str]) -> MemberReport:
        if not endpoints:
            return MemberReport(membership=None, statuses={})
        ordinals = sorted(endpoints)
        answers = await asyncio.gather(
            self._membership([endpoints[ordinal] for ordinal in ordinals]),
            *(self._status(endpoints[ordinal]) for ordinal in ordinals),
        )
        membership, statuses = answers[0], answers[1:]
        assert not isinstance(membership, MemberStatus)
        return MemberReport(
            membership=membership,
            statuses={
                ordinal: status
                for ordinal, status in zip(ordinals, statuses, strict=True)
                if isinstance(status, MemberStatus)
            },
        )

    async def _membership(self, endpoints: Sequence[str]) -> Membership | None:
        async with self._client(endpoints, _READ_TIMEOUT_S) as client:
            try:
                answer = await client.cluster.list_members(is_linearizable=True)
            except KvClientError as error:
                logger.debug("no member list", extra={"error": str(error)})
                return None
        members = tuple(
            MemberView(
                id=MemberId(member.ID),
                name=member.name,
                peer_urls=tuple(member.peerURLs),
                is_learner=member.isLearner,
            )
            for member in answer.members
        )
        return Membership(cluster_id=ClusterId(answer.header.cluster_id), members=members)

    async def _status(self, endpoint: str) -> MemberStatus | None:
        async with self._client([endpoint], _READ_TIMEOUT_S) as client:
            try:
                answer = await client.maintenance.status(endpoint)
            except KvClientError as error:
                logger.debug("no status", extra={"endpoint": endpoint, "error": str(error)})
                return None
            is_linearizable = False
            if not answer.isLearner:
                try:
                    await client.get(_PROBE_KEY)
                    is_linearizable = True
                except KvClientError as error:
                    logger.debug("no linearizable read", extra={"endpoint": endpoint, "error": str(error)})
        return MemberStatus(
            member_id=MemberId(answer.header.member_id),
            cluster_id=ClusterId(answer.header.cluster_id),
            leader_id=MemberId(answer.leader) if answer.leader else None,
            term=answer.raftTerm,
            applied_index=answer.raftAppliedIndex,
            is_learner=answer.isLearner,
            is_linearizable=is_linearizable,
            version=answer.version,
        )

    async def add_learner(self, endpoints: Sequence[str], peer_url: str) -> MemberId:
        answer = await self._change(
            endpoints, lambda client: client.cluster.add_member([peer_url], is_learner=True)
        )
        return MemberId(answer.member.ID)

    async def promote(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        await self._change(endpoints, lambda client: client.cluster.promote_member(member_id))

    async def remove(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        try:
            await self._change(endpoints, lambda client: client.cluster.remove_member(member_id))
        except MemberRefusedError as error:
            # Ids never come back: one that is unknown is out.
            if not isinstance(error.__cause__, MemberNotFoundError):
                raise

    async def move_leader(self, endpoints: Sequence[str], target_id: MemberId) -> None:
        await self._change(endpoints, lambda client: client.maintenance.move_leader(target_id))

    async def _change(self, endpoints: Sequence[str], call: Callable[[Client], Awaitable[T]]) -> T:
        async with self._client(endpoints, _WRITE_TIMEOUT_S) as client:
            try:
                return await call(client)
            except LearnerNotReadyError as error:
                raise MemberNotReadyError(str(error)) from error
            except ConnectionFailedError as error:
                raise MemberError(str(error)) from error
            except KvClientError as error:
                refused = isinstance(error, UnhealthyClusterError) or error.code in (
                    StatusCode.FAILED_PRECONDITION,
                    StatusCode.INVALID_ARGUMENT,
                    StatusCode.NOT_FOUND,
                )
                raise (MemberRefusedError if refused else MemberError)(str(error)) from error
