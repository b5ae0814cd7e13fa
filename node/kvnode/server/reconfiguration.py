"""Changes of membership: checked, one at a time, carried out by the leader.

The checks are those of etcd's strict reconfiguration: a change is refused when the members
that are up could not carry the cluster after it.  The operator checks the same from outside;
two layers that fail independently guard the one thing that can't be undone.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvnode.apply.commands import CommandKind
from kvnode.apply.errors import ApplyError, MemberNotFoundError
from kvnode.apply.membership import (
    MemberAttributes,
    MemberChange,
    MemberRecord,
    encode_member_attributes,
    encode_member_change,
)
from kvnode.raft.errors import ConfChangeError, DropReason, ProposalDroppedError
from kvnode.raft.types import ConfChangeKind, MemberId
from kvnode.server.calls import ask_leader
from kvnode.server.errors import (
    LearnerNotReadyError,
    NoLeaderError,
    NotEnoughStartedMembersError,
    NotLeaderError,
    RequestTimeoutError,
    UnhealthyClusterError,
)
from kvnode.server.ids import added_member_id
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["Reconfiguration"]

#: A member counts as reachable for a change once it has been so for this long (etcd's rule):
#: a network that flaps is no basis for one.
HEALTHY_SINCE_S = 5.0

#: A learner votes once its log reaches this share of the leader's (etcd's rule).
PROMOTE_SHARE = 0.9

#: And once it lags by no more entries than ``--snapshot-catchup-entries``, or than these.
PROMOTE_LAG = 1_000

#: How long to wait between tries while an earlier change is not applied yet.
RETRY_S = 0.02


class Reconfiguration:
    """Membership changes on behalf of one member; those of a follower are made by the leader."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    async def add(self, peer_urls: Sequence[str], is_learner: bool) -> MemberRecord:
        """Add a member and return its record.

        Raises:
            KvError: The URLs are taken, too many learners, unhealthy cluster, timeout.
        """
        request = {"peer_urls": list(peer_urls), "is_learner": is_learner}
        answer = await self._on_leader("member_add", request)
        return _record(answer["member"])

    async def remove(self, member_id: int) -> None:
        """Remove a member for good.

        Raises:
            KvError: Not found, not enough started members, unhealthy cluster, timeout.
        """
        await self._on_leader("member_remove", {"id": member_id})

    async def promote(self, member_id: int) -> None:
        """Make a learner a voter.

        Raises:
            KvError: Not found, not a learner, not in sync with the leader, timeout.
        """
        await self._on_leader("member_promote", {"id": member_id})

    async def update(self, member_id: int, peer_urls: Sequence[str]) -> None:
        """Change a member's peer URLs.

        Raises:
            KvError: Not found, the URLs are taken, timeout.
        """
        attributes = MemberAttributes(MemberId(member_id), peer_urls=tuple(peer_urls))
        # Another member may have added it a moment ago.
        await self._member.confirm_linearizable()
        refused = self._member.applier.membership.check_attributes(attributes)
        if refused is not None:
            raise refused
        await self._member.proposed(CommandKind.MEMBER_ATTRIBUTES, encode_member_attributes(attributes))

    async def answer(self, method: str, payload: bytes) -> bytes:
        """Carry out another member's request; the counterpart of ``_on_leader``.

        Raises:
            KvError: The request's own error, or that this member is not the leader.
        """
        work = {
            "member_add": self._add,
            "member_remove": self._remove,
            "member_promote": self._promote,
        }[method]
        if not self._member.is_leader:
            raise NotLeaderError
        result = await work(json.loads(payload))
        return json.dumps({**result, "applied": self._member.applied_index}).encode()

    async def _on_leader(self, method: str, request: dict[str, object]) -> dict[str, object]:
        member = self._member
        try:
            body = await ask_leader(
                member, method, json.dumps(request).encode(), may_ask_again=_was_refused_by_follower
            )
        except NoLeaderError:
            if method == "member_add":
                raise UnhealthyClusterError from None
            raise
        result: dict[str, object] = json.loads(body)
        # The others have no reason to tell a removed member what came after it.
        if request.get("id") != member.member_id or method != "member_remove":
            deadline_s = member.now_s() + member.config.request_timeout_s
            await member.wait_applied(int(str(result["applied"])), deadline_s)
        return result

    async def _add(self, request: dict[str, object]) -> dict[str, object]:
        member = self._member
        peer_urls = tuple(str(url) for url in _list(request["peer_urls"]))
        is_learner = bool(request["is_learner"])
        member_id = MemberId(
            added_member_id(peer_urls, member.config.initial_cluster_token, member.entropy())
        )
        kind = ConfChangeKind.ADD_LEARNER if is_learner else ConfChangeKind.ADD_VOTER
        change = MemberChange(0, kind, member_id, peer_urls)
        self._check(change)
        if member.config.strict_reconfig_check:
            if not is_learner:
                self._check_room_for_voter()
            if not self._has_quorum_since(HEALTHY_SINCE_S):
                raise UnhealthyClusterError
        await self._propose(change)
        record = member.applier.membership.get(member_id)
        if record is None:
            raise MemberNotFoundError
        return {"member": record._asdict()}

    async def _remove(self, request: dict[str, object]) -> dict[str, object]:
        member_id = int(str(request["id"]))
        member = self._member
        change = MemberChange(0, ConfChangeKind.REMOVE, MemberId(member_id))
        self._check(change)
        record = member.applier.membership.members[change.member_id]
        if member.config.strict_reconfig_check and not record.is_learner:
            self._check_room_without(member_id)
        await self._propose(change)
        return {}

    async def _promote(self, request: dict[str, object]) -> dict[str, object]:
        stats = self._member.stats
        try:
            await self._promote_checked(int(str(request["id"])))
        except KvError as error:
            failures = stats.learner_promote_failures
            failures[str(error)] = failures.get(str(error), 0) + 1
            raise
        stats.learner_promote_successes += 1
        return {}

    async def _promote_checked(self, member_id: int) -> None:
        member = self._member
        change = MemberChange(0, ConfChangeKind.ADD_VOTER, MemberId(member_id), is_promotion=True)
        refused = self._refusal(change)
        record = member.applier.membership.get(change.member_id)
        if record is None and refused is not None:
            raise refused
        status = member.node.status()
        progress = status.progress.get(MemberId(member_id))
        # As in etcd: whether a voter may be promoted is asked after whether it follows.
        is_leader = member_id == member.member_id
        if not is_leader and (
            record is None
            or not record.name
            or progress is None
            or not progress.recent_active
            or progress.match_index < PROMOTE_SHARE * status.last_index
            or status.last_index - progress.match_index
            > max(member.config.snapshot_catchup_entries, PROMOTE_LAG)
        ):
            raise LearnerNotReadyError
        if refused is not None:
            raise refused
        if member.config.strict_reconfig_check:
            self._check_room_for_voter()
        await self._propose(change)

    def _refusal(self, change: MemberChange) -> ApplyError | None:
        return self._member.applier.membership.check(change, max_learners=self._member.config.max_learners)

    def _check(self, change: MemberChange) -> None:
        if refused := self._refusal(change):
            raise refused

    async def _propose(self, change: MemberChange) -> None:
        """Put one change through the log; waits for an earlier one to be applied first."""
        member = self._member
        deadline_s = member.now_s() + member.config.request_timeout_s
        while True:
            outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

            def done(result: object, outcome: "asyncio.Future[object]" = outcome) -> None:
                if not outcome.done():
                    outcome.set_result(result)

            if not member.is_leader:
                raise NotLeaderError
            request_id = member.proposals.expect(done, member.term, member.now_s())
            try:
                member.node.propose_conf_change(encode_member_change(change._replace(request_id=request_id)))
            except (ProposalDroppedError, ConfChangeError) as error:
                member.proposals.forget(request_id)
                is_pending = (
                    isinstance(error, ProposalDroppedError) and error.reason is DropReason.CONF_CHANGE_PENDING
                )
                if not is_pending or member.now_s() >= deadline_s:
                    raise RequestTimeoutError from error
                await asyncio.sleep(RETRY_S)
                continue
            member.wake()
            result = await outcome
            if isinstance(result, KvError):
                raise result
            return

    def _voters(self) -> list[MemberRecord]:
        return self._member.applier.membership.voters

    def _check_room_for_voter(self) -> None:
        """The started voters must reach the quorum of the cluster with one more voter."""
        voters = self._voters()
        started = sum(1 for voter in voters if voter.name)
        if len(voters) == 1 and started == 1:
            return  # one to two: else no cluster could ever grow
        if started < (len(voters) + 1) // 2 + 1:
            raise NotEnoughStartedMembersError

    def _check_room_without(self, member_id: int) -> None:
        member = self._member
        voters = self._voters()
        rest = [voter for voter in voters if voter.id != member_id]
        if len(voters) > 1 and sum(1 for voter in rest if voter.name) < len(rest) // 2 + 1:
            raise NotEnoughStartedMembersError
        if member_id != member.member_id and not member.transport.connected(member_id):
            return  # it is down: without it the quorum is as healthy as with it
        active = sum(1 for voter in voters if self._is_active_since(voter.id, HEALTHY_SINCE_S))
        if active - 1 < 1 + (len(voters) - 2) // 2 and len(voters) > 1:
            raise UnhealthyClusterError

    def _is_active_since(self, member_id: int, seconds: float) -> bool:
        member = self._member
        if member_id == member.member_id:
            return True
        since_s = member.transport.connected_since_s(member_id)
        if since_s is None:
            return False
        # A leader that has just started can't have been connected for longer than it has run.
        return member.now_s() - since_s >= seconds

    def _has_quorum_since(self, seconds: float) -> bool:
        voters = self._voters()
        active = sum(1 for voter in voters if self._is_active_since(voter.id, seconds))
        return active >= len(voters) // 2 + 1


def _was_refused_by_follower(error: KvError) -> bool:
    """Only then was nothing proposed for certain, so that the change may be asked for again."""
    return error.code == StatusCode.FAILED_PRECONDITION and str(error) == NotLeaderError.text


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _record(fields: object) -> MemberRecord:
    if not isinstance(fields, dict):
        raise RequestTimeoutError
    return MemberRecord(
        MemberId(int(fields["id"])),
        str(fields["name"]),
        tuple(fields["peer_urls"]),
        tuple(fields["client_urls"]),
        bool(fields["is_learner"]),
    )
