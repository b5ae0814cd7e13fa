"""Do the members hold the same data?  Each is asked for the hash of its revisions, and they are compared.

Members that apply the same log hold the same revisions; when they don't, a disk, a memory or this program
has failed.  Hashes are comparable at one revision between members that are compacted up to the same one;
any other answer, and none, says nothing.

A hash of all data is read for when it is asked for.  The rolling hash (``mvcc.rolling``) is kept anyway, so
that comparing it is free; it says whether members have applied the same changes.

The member that a majority differs from is named by the CORRUPT alarm, and ends; the others go on.  Without a
majority nobody knows who is wrong, and nothing is changed any more, as in etcd.
"""

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import MEMBER
from kvnode.mvcc.rolling import Checkpoint
from kvnode.mvcc.store import NEVER_COMPACTED
from kvnode.pb.rpc_pb2 import AlarmRequest, AlarmType
from kvnode.raft.types import Index
from kvnode.server.errors import ExitCode, StartError
from kvnode.status import KvError, StatusCode
from kvnode.storage.seal import FIRST_REVISION

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["CorruptionChecks", "suspects"]

#: Revision asked for; hash, compact revision.
_ASK = struct.Struct(">q")
_ANSWER = struct.Struct(">Qq")

#: How long one member may take to hash its data.
ANSWER_S = 30.0
#: At the start nobody waits that long for members that may be starting as well.
INITIAL_ANSWER_S = 2.0
#: A member that can't be reached, or has not come to the revision yet, is asked again after this time.
RETRY_S = 0.1
RETRIES = 20

log = logging.getLogger(__name__)


class HashAnswer(NamedTuple):
    """What one member holds up to a revision."""

    hash: int
    #: Of a rolling hash: the revision at which it began.
    compact_revision: int


class HashUnknownError(KvError):
    """There is no rolling hash of that index here, or none any more."""

    code = StatusCode.NOT_FOUND
    text = "no hash of that index"


def suspects(answers: Mapping[int, HashAnswer], own_id: int, voters: int) -> list[int]:
    """Return the members whose data differ from those of a majority; 0 stands for an unknown one.

    Args:
        answers: by member; only those compacted up to the same revision as ``own_id`` are looked at.
        own_id: one of them.
        voters: of the cluster, whether or not they have answered.
    """
    compact_revision = answers[own_id].compact_revision
    hashes = {member: a.hash for member, a in answers.items() if a.compact_revision == compact_revision}
    counted = Counter(hashes.values())
    if len(counted) == 1:
        return []
    trusted, count = counted.most_common(1)[0]
    if count < voters // 2 + 1:
        return [0]
    return sorted(member for member, found in hashes.items() if found != trusted)


class CorruptionChecks:
    """The checks of one member."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        #: The compact revision that was compared last.
        self._compared = NEVER_COMPACTED
        #: The index whose rolling hash is compared next, when all members have come to it.
        self._next_index: Index = 0
        self._compared_index: Index = 0

    async def check_before_serving(self) -> None:
        """Compare this member's present data with those of the members that answer soon.

        Raises:
            StartError: They differ; this member must not serve.
        """
        revision = self._member.applier.store.current_revision
        if revision == FIRST_REVISION:
            return
        # Connections to the others may still be on their way.
        answers = await self._gather(revision, INITIAL_ANSWER_S, retries=RETRIES)
        own = answers[self._member.member_id]
        for member_id, answer in answers.items():
            if answer.compact_revision == own.compact_revision and answer.hash != own.hash:
                raise StartError(
                    f"this member's data differ from those of member {member_id:x} at revision {revision}:"
                    " one of them is damaged",
                    exit_code=ExitCode.DAMAGED,
                )
        log.info("initial corruption check passed with %d other members", len(answers) - 1)

    async def check_now(self) -> None:
        """As leader: compare all members at the present revision."""
        await self._check(self._member.applier.store.current_revision)

    async def check_compacted(self) -> None:
        """As leader: compare all members at the compact revision, until all have been, as in etcd."""
        revision = self._member.applier.store.compact_revision
        if revision > max(self._compared, 0):
            answers = await self._check(revision)
            own = answers[self._member.member_id]
            comparable = [each for each in answers.values() if each.compact_revision == own.compact_revision]
            if len(comparable) == len(self._member.applier.membership.members):
                self._compared = revision

    async def check_rolling(self) -> None:
        """As leader: compare the rolling hashes where the log was at the check before."""
        rolling = self._member.applier.store.rolling
        index, own = self._next_index, rolling.at(self._next_index)
        self._next_index = rolling.checkpoints[-1].index if rolling.checkpoints else 0
        if own is None or index == self._compared_index:
            return  # too much has happened, or nothing
        self._compared_index = index
        others = [each for each in self._member.applier.membership.members if each != self._member.member_id]
        payload = _ASK.pack(index)
        answers = await asyncio.gather(
            *(self._ask(each, "rolling_hash", payload, INITIAL_ANSWER_S, retries=0) for each in others)
        )
        found = {
            int(each): answer for each, answer in zip(others, answers, strict=True) if answer is not None
        }
        found[self._member.member_id] = _rolling_answer(own)
        await self._judge(found, f"index {index}")

    def answer_rolling(self, payload: bytes) -> bytes:
        """Answer another member's question for the rolling hash.

        Raises:
            HashUnknownError: It is not known here.
        """
        checkpoint = self._member.applier.store.rolling.at(*_ASK.unpack(payload))
        if checkpoint is None:
            raise HashUnknownError
        return _ANSWER.pack(*_rolling_answer(checkpoint))

    async def answer(self, payload: bytes) -> bytes:
        """Answer another member's question."""
        kv_hash, compact_revision, _ = await self._member.hash_kv(*_ASK.unpack(payload))
        return _ANSWER.pack(kv_hash, compact_revision)

    async def _check(self, revision: int) -> dict[int, HashAnswer]:
        answers = await self._gather(revision, ANSWER_S, retries=RETRIES)
        await self._judge(answers, f"revision {revision}")
        return answers

    async def _judge(self, answers: Mapping[int, HashAnswer], where: str) -> None:
        member = self._member
        found = suspects(answers, member.member_id, len(member.applier.membership.voters))
        for suspect in found:
            if (suspect, AlarmType.CORRUPT) in member.applier.alarms.raised():
                continue
            log.error("members differ at %s: raising the CORRUPT alarm for %x", where, suspect)
            alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=suspect, alarm=AlarmType.CORRUPT)
            await member.proposed(CommandKind.ALARM, alarm.SerializeToString(), MEMBER)
        if not found:
            log.debug("%d members agree at %s", len(answers), where)

    async def _gather(self, revision: int, timeout_s: float, *, retries: int) -> dict[int, HashAnswer]:
        """Return this member's hash, and those of the others that could be had."""
        member = self._member
        others = [int(each) for each in member.applier.membership.members if each != member.member_id]
        kv_hash, compact_revision, _ = await member.hash_kv(revision)
        payload = _ASK.pack(revision)
        answers = await asyncio.gather(
            *(self._ask(other, "hash_kv", payload, timeout_s, retries) for other in others)
        )
        found: dict[int, HashAnswer] = {member.member_id: HashAnswer(kv_hash, compact_revision)}
        found |= {other: answer for other, answer in zip(others, answers, strict=True) if answer is not None}
        return found

    async def _ask(
        self, member_id: int, method: str, payload: bytes, timeout_s: float, retries: int
    ) -> HashAnswer | None:
        last: KvError | None = None
        for attempt in range(retries + 1):
            if attempt:
                await asyncio.sleep(RETRY_S)
            try:
                body = await self._member.transport.call(member_id, method, payload, timeout_s)
                return HashAnswer(*_ANSWER.unpack(body))
            except KvError as error:
                last = error
        log.info("no hash of member %x: %s", member_id, last)
        return None


def _rolling_answer(checkpoint: Checkpoint) -> HashAnswer:
    # The revision is part of what has to be equal.
    return HashAnswer(checkpoint.hash << 32 | checkpoint.revision & 0xFFFFFFFF, checkpoint.since_revision)
